"""Four CPU devices, and shapes checked at run time, in every test."""

import atexit
import os
import shutil
import tempfile

# Level 0 compiles a train step in half the time, and no test runs one for long.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Several tests train the same network: each step is compiled once. The folder is this session's: nothing in it is old.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="univip_jax_tests_")

from jaxtyping import install_import_hook

atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# Not `univip_jax.data`: TensorFlow's symbolic tensors are no arrays that jaxtyping knows.
_HOOK = install_import_hook(
    [f"univip_jax.{room}" for room in ("models", "augment", "transport", "losses", "train_step")],
    "beartype.beartype",
)
