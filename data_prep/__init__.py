"""Photos to a data set for training: proposals, TFRecord shards, sidecars, a manifest."""
