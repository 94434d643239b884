"""Batch norm with the ReLU and the residual sum that follow it, and a gradient of its own.

The gradient keeps the convolution's output, two numbers a channel, and of a residual sum the result, which the next
convolution keeps too. It computes again which pixels the ReLU let through: autodiff would read the activation for that.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from univip_jax.types import at_least_float32

MOMENTUM = 0.9  # of the running statistics
EPSILON = 1e-5

Channels = Float[Array | np.ndarray, "c"]  # NumPy's where variables were read from a file
Saved = tuple[Array, Channels, Channels, Channels, Channels, Array | None]


class BatchNorm(nn.Module):
    """The batch norm of all our networks; its statistics are float32 and of the global batch, under shard_map too.

    Attributes:
      train: normalise by the batch, and let it move the running statistics; else normalise by these.
      relu: of the result, or of its sum with the shortcut.
      affine: with scale and bias.
      dtype: of what is returned; parameters and statistics stay float32.
    """

    train: bool
    dtype: Any
    relu: bool = False
    affine: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "*N c"], shortcut: Float[Array, "*N c"] | None = None) -> Float[Array, "*N c"]:
        """Normalises over all axes but the last, and adds the shortcut."""
        number = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, number)
        var = self.variable("batch_stats", "var", jnp.ones, number)
        scale = self.param("scale", self.scale_init, number) if self.affine else jnp.ones(number)
        bias = self.param("bias", nn.initializers.zeros, number) if self.affine else jnp.zeros(number)
        if not self.train:
            factor = jax.lax.rsqrt(var.value + EPSILON) * scale
            return _rectified(_normalized(x, mean.value, factor, bias), shortcut, self.relu, self.dtype)
        out, *moments = _by_batch(x, scale, bias, shortcut, self.relu, self.dtype)
        if not self.is_initializing():
            for running, new in zip((mean, var), moments, strict=True):
                running.value = MOMENTUM * running.value + (1 - MOMENTUM) * jax.lax.stop_gradient(new)
        return out


def _normalized(x: Array, mean: Channels, factor: Channels, bias: Channels) -> Array:
    return (x - mean) * factor + bias


def _rectified(x: Array, shortcut: Array | None, relu: bool, dtype: Any) -> Array:
    x = x.astype(dtype) if shortcut is None else x.astype(dtype) + shortcut
    return nn.relu(x) if relu else x


def _mean(*arrays: Array) -> list[Channels]:
    """Means over all axes but the last, and all devices of a shard_map, in one round."""
    return _over_devices(*[x.mean(range(x.ndim - 1)) for x in arrays])


def _over_devices(*means: Channels) -> list[Channels]:
    split = jax.sharding.get_abstract_mesh().manual_axes  # of a shard_map; under jit alone no axis needs a name
    return list(jax.lax.pmean(jnp.stack(means), split) if split else means)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _by_batch(
    x: Array, scale: Channels, bias: Channels, shortcut: Array | None, relu: bool, dtype: Any
) -> tuple[Array, Channels, Channels]:
    """The output, and the batch's mean and variance, which carry no gradient."""
    return _forward(x, scale, bias, shortcut, relu, dtype)[0]


def _forward(
    x: Array, scale: Channels, bias: Channels, shortcut: Array | None, relu: bool, dtype: Any
) -> tuple[tuple[Array, Channels, Channels], Saved]:
    wide = at_least_float32(x)
    mean, square = _mean(wide, jax.lax.square(wide))  # both of one reading of x
    var = jnp.maximum(0, square - mean**2)
    inverse = jax.lax.rsqrt(var + EPSILON)
    out = _rectified(_normalized(x, mean, inverse * scale, bias), shortcut, relu, dtype)
    return (out, mean, var), (x, scale, bias, mean, inverse, None if shortcut is None else out)


def _backward(relu: bool, dtype: Any, saved: Saved, cotangents: tuple[Array, Channels, Channels]) -> tuple:
    """Two readings of the pixels: for the sums, and for the gradient of x.

    The barriers keep XLA for GPUs from one array of the ReLU's mask or masked gradient for both, from the forward's
    sum in place of its result, and, under `vmap`, from a third reading for the sums over all views.
    """
    x, scale, bias, mean, inverse, joined = saved
    x, joined = jax.lax.optimization_barrier((x, joined))
    grad, factor, pixels = cotangents[0], inverse * scale, range(x.ndim - 1)
    if relu and joined is not None:  # the shortcut needs it as an array
        grad = jnp.where(joined > 0, grad, 0)

    def let_through(values: Array) -> Array:
        if not relu or joined is not None:
            return values
        return jnp.where((x - mean) * factor > -bias, values, 0)  # one operation less than the forward's sum > 0

    of_bias = let_through(at_least_float32(grad)).sum(pixels)
    of_factor = let_through(grad * (x - mean)).sum(pixels)
    if joined is None:
        x, grad, of_bias, of_factor = jax.lax.optimization_barrier((x, grad, of_bias, of_factor))
    else:
        of_bias, of_factor = jax.lax.optimization_barrier((of_bias, of_factor))
    number = x.size // x.shape[-1]
    mean_grad, mean_product = _over_devices(of_bias / number, of_factor / number)
    slope = inverse**2 * mean_product
    of_x = factor * (let_through(at_least_float32(grad)) - mean_grad - (x - mean) * slope)
    return of_x.astype(x.dtype), of_factor * inverse, of_bias, None if joined is None else grad


_by_batch.defvjp(_forward, _backward)
