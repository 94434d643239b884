"""Rows of UniVIP's Tables 7 and 8 on the same scenes, seeds and budget."""
