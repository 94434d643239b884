"""The max pool of a ResNet's stem, with a gradient of its own: XLA for GPUs keeps five maps of 4 bytes for that."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from univip_jax.types import at_least_float32

Sides = tuple[Any, Any]  # height and width, px: symbols where a function of any size is exported
WINDOW = [(row, column) for row in range(3) for column in range(3)]


def max_pool(x: Float[Array, "N H W c"]) -> Float[Array, "N h w c"]:
    """3x3 of stride 2, padded by 1 on all sides. The gradient of equal pixels goes to the first, row by row."""
    return _max_pool(x, x.shape[1:3])


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: Float[Array, "N H W c"], sides: Sides) -> Float[Array, "N h w c"]:
    return _forward(x, sides)[0]


def _forward(x: Array, sides: Sides) -> tuple[Float[Array, "N h w c"], Int8[Array, "N h w c"]]:
    """The maxima, and the place of each in its window."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    height, width = sides
    best, place = None, jnp.zeros((), jnp.int8)
    for index, (row, column) in enumerate(WINDOW):
        pixels = padded[:, row : row + height : 2, column : column + width : 2]
        better = True if best is None else pixels > best
        best = pixels if best is None else jnp.where(better, pixels, best)
        place = jnp.where(better, jnp.int8(index), place)
    return best, place


def _backward(sides: Sides, place: Int8[Array, "N h w c"], grad: Array) -> tuple[Float[Array, "N H W c"]]:
    """Each pixel adds what the windows that chose it give it."""
    wide = at_least_float32(grad)
    total = 0
    for index, offsets in enumerate(WINDOW):
        chosen = jnp.where(place == index, wide, 0)
        spread = [
            (offset - 1, side - (offset - 1) - (2 * number - 1), 1)
            for offset, side, number in zip(offsets, sides, place.shape[1:3], strict=True)
        ]
        total += jax.lax.pad(chosen, jnp.zeros((), wide.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
    return (total.astype(grad.dtype),)


_max_pool.defvjp(_forward, _backward)
