"""From photos to a number in a few minutes on two CPU cores, without a download: `python -m demo`."""
