"""A run's backbone in the files of other libraries, each with a proof that it computes the same."""
