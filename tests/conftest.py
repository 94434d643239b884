"""Four CPU devices, and shapes checked at run time, in every test."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

# Not `univip_jax.data`: TensorFlow's symbolic tensors are no arrays that jaxtyping knows.
_HOOK = install_import_hook(
    [f"univip_jax.{room}" for room in ("models", "augment", "transport", "losses", "train_step")],
    "beartype.beartype",
)
