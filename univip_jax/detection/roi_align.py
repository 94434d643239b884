"""RoIAlign (He et al. 2017) with Detectron2's alignment and adaptive sampling, as products of matrices.

Bilinear samples on a regular grid factorise: a region's output is `rows @ map @ columns.T`, where `rows` holds, for
each bin, the mean weight of each row of the map. No gather, and no scatter in the gradient: it is deterministic on
every accelerator, and runs on its matrix units.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from univip_jax.detection.boxes import level_of


def axis_weights(
    start: Float[Array, " R"], stop: Float[Array, " R"], cells: int, bins: int, samples: int | None = None
) -> Float[Array, "R bins cells"]:
    """Weights of a map's rows (or columns) in each bin of a region; they sum to 1 where the region is inside.

    A bin has `ceil(length / bins)` evenly spaced samples. A sample beyond -1 or `cells` counts 0, one at the border is
    moved onto it, as in Detectron2.

    Args:
      start, stop: the region along this axis, in cells, where a cell's centre is at a half.
      samples: that many a bin instead.
    """
    start, stop = start - 0.5, stop - 0.5  # as Detectron2 does, so that the number of samples rounds alike
    length = stop - start
    wanted = _ceil_of_ratio(length, bins) if samples is None else jnp.full_like(length, samples)
    # A region lies in the map, so that no bin needs more; one more for rounding.
    most = -(-cells // bins) + 1 if samples is None else samples
    step = jnp.arange(most, dtype=start.dtype)
    bin_length = length / bins
    offsets = jnp.arange(bins, dtype=start.dtype)[:, None] + (step + 0.5) / jnp.maximum(wanted, 1)[:, None, None]
    place = start[:, None, None] + offsets * bin_length[:, None, None]  # [R, bins, most]
    counts = (step < wanted[:, None, None]) & (place >= -1) & (place <= cells)
    place = jnp.clip(place, 0, cells - 1)[..., None]
    hats = jnp.maximum(0, 1 - jnp.abs(place - jnp.arange(cells, dtype=start.dtype)))
    return jnp.where(counts[..., None], hats, 0).sum(axis=2) / jnp.maximum(wanted, 1)[:, None, None]


def _ceil_of_ratio(length: Float[Array, " R"], bins: int) -> Float[Array, " R"]:
    """`ceil(length / bins)`; compilers multiply by a rounded 1 / bins, by which 21 / 7 would be above 3."""
    near = jnp.round(length / bins)
    return jnp.where(near * bins >= length, near, near + 1)


def roi_align(
    level: Float[Array, "H W C"],
    boxes: Float[Array, "R 4"],
    stride: int,
    bins: int,
    here: Bool[Array, " R"] | None = None,
    samples: int | None = None,
) -> Float[Array, "R bins bins C"]:
    """The regions of one map; zeros for regions that are not `here`.

    Args:
      boxes: yxyx, px of the canvas.
      stride: px of the canvas a cell.
    """
    height, width, _ = level.shape
    y0, x0, y1, x1 = (boxes / stride).T
    rows, columns = axis_weights(y0, y1, height, bins, samples), axis_weights(x0, x1, width, bins, samples)
    if here is not None:
        rows = jnp.where(here[:, None, None], rows, 0)
    rows, columns = rows.astype(level.dtype), columns.astype(level.dtype)
    # The longer side first: what is left is smaller.
    if width >= height:
        return jnp.einsum("rph,rhqc->rpqc", rows, jnp.einsum("rqw,hwc->rhqc", columns, level))
    return jnp.einsum("rqw,rpwc->rpqc", columns, jnp.einsum("rph,hwc->rpwc", rows, level))


def pool_regions(
    pyramid: Sequence[Float[Array, "B _h _w C"]], boxes: Float[Array, "B R 4"], strides: Sequence[int], bins: int
) -> Float[Array, "B R bins bins C"]:
    """Each region from the level that its size asks for (P2 to P5), image after image: the memory of one at a time."""

    @partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable)
    def one(image: tuple[list[Float[Array, "_h _w C"]], Float[Array, "R 4"]]) -> Float[Array, "R bins bins C"]:
        levels, regions = image
        of_level = level_of(regions)
        pooled = [
            roi_align(level, regions, stride, bins, of_level == number)
            for number, (level, stride) in enumerate(zip(levels, strides, strict=True), start=2)
        ]
        return sum(pooled[1:], pooled[0])

    return jax.lax.map(one, (list(pyramid), boxes))
