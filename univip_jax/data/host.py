"""TensorFlow, which reads, decodes and crops on the host. All rooms that need it take `tf` from here.

The accelerator belongs to JAX: hiding it before any TensorFlow operation runs keeps TensorFlow from reserving its
memory. Nothing else of `univip_jax` imports TensorFlow.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # for neural networks, which are JAX's here; it announces itself

import tensorflow as tf  # reads both when it is imported

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

__all__ = ["available_cores", "tf"]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
