"""Photos to a data set for training: proposals, TFRecord shards, sidecars, a manifest."""

import os

# TensorFlow only writes and checks records here: its start-up lines are noise. Read when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
