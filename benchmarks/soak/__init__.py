"""Training under faults: `python -m benchmarks.soak`."""
