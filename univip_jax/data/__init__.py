"""The only home of TensorFlow: it reads, decodes and crops on the host.

The accelerator belongs to JAX. Hiding it before any TensorFlow operation runs is what keeps TensorFlow from
reserving its memory.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # for neural networks, which are JAX's here; it announces itself

import tensorflow as tf  # reads both when it is imported

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)
