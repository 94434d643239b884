"""Projector and predictor (BYOL, section 3.3)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from univip_jax.models.resnet import batch_norm
from univip_jax.types import at_least_float32


class MLP(nn.Module):
    """Linear - batch norm - ReLU - linear; no norm and no bias at the end."""

    hidden: int
    out: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N F"], train: bool) -> Float[Array, "N D"]:
        """Returns float32, whatever the dtype of the computation."""
        x = nn.Dense(self.hidden, dtype=self.dtype, name="linear1")(x)
        x = nn.relu(batch_norm(train, self.dtype)(name="bn1")(x))
        x = nn.Dense(self.out, use_bias=False, dtype=self.dtype, name="linear2")(x)
        return at_least_float32(x)
