"""Anti-aliased crops as products of matrices, exact on every device.

A crop is `rows @ photo @ columns.T`, where each matrix is a band of interpolation weights. Weights are whole 256ths,
found in whole numbers, and pixels are whole: all products and sums are whole numbers below 2^24. So bfloat16 factors
with float32 sums are exact, in any order, on CPU, GPU and TPU alike. The price is the rounding of the weights, and of
what lies between the two products: benchmarks/notes.md has the error.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

_ONE = 256  # what the weights of a pixel sum to: bfloat16 has all whole numbers up to here, and then the even ones
_MIDDLE = 128  # is taken from the pixels: bfloat16 then has what cubic weights overshoot, too
_SMOOTH = 512  # steps of a cubic kernel's argument


def _linear(distance: Int[Array, "*n"], reach: Int[Array, ""]) -> Int[Array, "*n"]:
    """The triangle, times `reach`."""
    return jnp.maximum(reach - distance, 0)


def _cubic(distance: Int[Array, "*n"], reach: Int[Array, ""]) -> Int[Array, "*n"]:
    """Keys' kernel of a = -0.5, which is Pillow's, times 2^16."""
    u = jnp.minimum(distance, 2 * reach) * _SMOOTH // reach
    inner = (_SMOOTH - u) * (2 * _SMOOTH**2 + 2 * _SMOOTH * u - 3 * u * u)
    outer = (_SMOOTH - u) * (2 * _SMOOTH - u) ** 2
    return jnp.where(u < _SMOOTH, inner, outer) >> 12


KERNELS = {"bilinear": (_linear, 1), "bicubic": (_cubic, 2)}  # by `views.interpolation`, with the radius


def interpolation_weights(
    low: Float[Array, ""], high: Float[Array, ""], extent: Int[Array, ""], size: int, side: int, interpolation: str
) -> Float[Array, "size side"]:
    """Weights, in 256ths, by which `size` pixels over [low, high] px are made of `side` pixels.

    The kernel is as wide as a new pixel, or an old one where those are wider, and sampled at the old pixels' centres,
    as Pillow and TensorFlow's ScaleAndTranslate do. Each row sums to 256, by largest remainder.

    Args:
      extent: of the old pixels, so many count; what lies beyond has weight 0.
    """
    kernel, radius = KERNELS[interpolation]
    unit = 2 ** int(math.log2(min(2**29 // (size * side), 2**20 // side)))  # of a px: all below fits 31 bits
    start, stop = (jnp.round(edge * unit).astype(jnp.int32) for edge in (low, high))
    span = jnp.maximum(stop - start, 1)
    # From here on a px is `pixel`, a multiple of 2 * size: the middles of the new pixels are whole.
    pixel, reach = 2 * unit * size, jnp.maximum(2 * span, 2 * unit * size)
    middle = (2 * size * start + (2 * jnp.arange(size) + 1) * span)[:, None]
    num_taps = 2 * math.ceil(radius * max(1, side / size)) + 1
    places = (middle - radius * reach) // pixel + jnp.arange(num_taps)
    values = kernel(jnp.abs(places * pixel + pixel // 2 - middle), reach)
    values = jnp.where((places >= 0) & (places < extent), values, 0)
    total = values.sum(1, keepdims=True)
    taps = jax.lax.div(_ONE * values, jnp.broadcast_to(total, values.shape))
    rest = _ONE * values - taps * total
    taps, rest = taps - (rest < 0), rest + jnp.where(rest < 0, total, 0)  # rounded down, not towards 0
    missing = _ONE - taps.sum(1, keepdims=True)
    larger, same = rest[:, None] > rest[..., None], rest[:, None] == rest[..., None]
    rank = (larger | (same & (jnp.arange(num_taps) < jnp.arange(num_taps)[:, None]))).sum(2)
    taps += rank < missing
    # A cubic kernel that the photo's border cuts gives a weight above 256: made even by the next pixel's.
    odd, at_first = jnp.where(taps > _ONE, taps % 2, 0), places == 0
    taps += jnp.roll(jnp.where(at_first, odd, 0), 1, 1) + jnp.roll(jnp.where(at_first, 0, odd), -1, 1) - odd
    band = jnp.zeros((size, side), jnp.int32)
    for tap in range(num_taps):
        band = jnp.where(places[:, tap, None] == jnp.arange(side), taps[:, tap, None], band)
    return band.astype(jnp.float32)


def crop(
    pixels: UInt8[Array, "H 3*W"],
    extent: Int[Array, " 2"],
    groups: Sequence[tuple[Float[Array, "n 4"], int]],
    interpolation: str,
) -> list[UInt8[Array, "n size size 3"]]:
    """Crops of a photo at the upper left of its canvas.

    Args:
      extent: height and width of the photo, px.
      groups: boxes (yxyx in [0, 1]), and the side of their crops, px.
      interpolation: a key of `KERNELS`.
    """
    height, width = pixels.shape[0], pixels.shape[1] // 3

    def matrices(axis: int, side: int) -> list[Float[Array, "n size side"]]:
        return [
            jax.vmap(
                lambda low, high, size=size: interpolation_weights(low, high, extent[axis], size, side, interpolation)
            )(boxes[:, axis] * extent[axis], boxes[:, axis + 2] * extent[axis]).astype(jnp.bfloat16)
            for boxes, size in groups
        ]

    planes = pixels.reshape(height, width, 3).swapaxes(1, 2).astype(jnp.bfloat16) - _MIDDLE
    rows = jnp.concatenate([matrix.reshape(-1, height) for matrix in matrices(0, height)])
    between = jnp.einsum("rh,hcw->rcw", rows, planes, preferred_element_type=jnp.float32)
    steps = 2 if interpolation == "bilinear" else 1  # of a grey level: as many as bfloat16 has without overshoot
    between = jnp.round(between * (steps / _ONE)).astype(jnp.bfloat16)
    crops, first = [], 0
    for columns in matrices(1, width):
        n, size, _ = columns.shape
        part = between[first : first + n * size].reshape(n, size, 3, width)
        first += n * size
        found = jnp.einsum("nrcw,now->nroc", part, columns, preferred_element_type=jnp.float32)
        crops.append(jnp.clip(jnp.round(found / (steps * _ONE) + _MIDDLE), 0, 255).astype(jnp.uint8))
    return crops
