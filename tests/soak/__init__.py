"""Training under faults: `python -m tests.soak`."""
