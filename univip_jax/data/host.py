"""TensorFlow reads and decodes on the host. Every module that needs it imports `tf` from here.

The accelerator belongs to JAX: it is hidden before any TensorFlow operation runs, or TensorFlow would reserve its
memory. Nothing else in `univip_jax` imports TensorFlow.
"""

import ctypes
import os

from univip_jax.common.machine import before_imports

before_imports()  # TensorFlow imports Keras, matplotlib and joblib
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it prints a notice, and only speeds up networks, which JAX runs

import tensorflow as tf  # noqa: E402 (reads both when it is imported)

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

__all__ = ["available_cores", "keep_memory", "run_on_one_core", "tf"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Lets this process keep the memory of a photo for the next one.

    glibc returns it to the kernel, and gets it again by a page fault for each 4 kB: up to 600 a photo, 1 ms.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # other C libraries have none
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def run_on_one_core() -> None:
    """Keeps this process's TensorFlow to one thread; has no effect after TensorFlow's first operation."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        pass
