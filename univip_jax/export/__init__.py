"""A run's backbone in the files that others load, each with the proof that it computes the same."""
