"""Projector and predictor (BYOL, section 3.3)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from univip_jax.models.norm import BatchNorm
from univip_jax.models.resnet import he_normal
from univip_jax.types import at_least_float32


class MLP(nn.Module):
    """Linear - batch norm - ReLU - linear; no norm and no bias at the end.

    `fan` is the backbone's: `fan_in` is He's here too (OpenSelfSup), `fan_out` leaves LeCun's.
    """

    hidden: int
    out: int
    fan: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N F"], train: bool) -> Float[Array, "N D"]:
        """Returns float32, whatever the dtype of the computation."""
        kernel_init = he_normal("fan_in") if self.fan == "fan_in" else nn.initializers.lecun_normal()
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=kernel_init)
        x = dense(self.hidden, name="linear1")(x)
        x = BatchNorm(train, self.dtype, relu=True, name="bn1")(x)
        x = dense(self.out, use_bias=False, name="linear2")(x)
        return at_least_float32(x)
