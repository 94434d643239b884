"""Fault injection: `python -m tests.soak`."""
