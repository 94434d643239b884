"""What the heads of a detector should say of a region: its class, its deltas, its mask."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def mask_targets(
    regions: Float[Array, "R 4"], boxes: Float[Array, "R 4"], masks: Float[Array, "R m m"], side: int
) -> Bool[Array, "R side side"]:
    """The part of an object's mask that lies in a region, at the region's own grid of `side` pixels.

    Args:
      regions: yxyx, px.
      boxes: of the regions' objects.
      masks: the objects' masks, each over its own box; 1 inside, 0 outside.
    """
    rows, columns = (_along(regions, boxes, axis, masks.shape[1], side) for axis in (0, 1))
    inside = jnp.einsum("rqw,rpw->rpq", columns, jnp.einsum("rph,rhw->rpw", rows, masks.astype(rows.dtype)))
    return inside >= 0.5


def _along(
    regions: Float[Array, "R 4"], boxes: Float[Array, "R 4"], axis: int, cells: int, side: int
) -> Float[Array, "R side cells"]:
    """Weights of linear interpolation from a mask's rows (or columns) to those of a region; 0 outside the mask."""
    start, stop, first, last = regions[:, axis], regions[:, axis + 2], boxes[:, axis], boxes[:, axis + 2]
    centres = start[:, None] + (jnp.arange(side) + 0.5) / side * (stop - start)[:, None]
    place = (centres - first[:, None]) / jnp.maximum(last - first, 1e-6)[:, None] * cells - 0.5
    return jnp.maximum(0, 1 - jnp.abs(place[..., None] - jnp.arange(cells)))
