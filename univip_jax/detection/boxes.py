"""Boxes on the accelerator, yxyx in pixels: overlap, coding, levels; Detectron2's formulas."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MAX_LOG_SCALE = math.log(1000 / 16)  # of a decoded side to the reference's: keeps exp finite


def areas(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Areas; 0 where a box's corners are swapped."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def pairwise_iou(first: Float[Array, "N 4"], second: Float[Array, "M 4"]) -> Float[Array, "N M"]:
    """Intersection over union of every box of `first` with every box of `second`; 0 where both are empty."""
    top_left = jnp.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = jnp.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = jnp.maximum(bottom_right - top_left, 0)
    intersection = sides[..., 0] * sides[..., 1]
    union = areas(first)[:, None] + areas(second)[None, :] - intersection
    return jnp.where(union > 0, intersection / jnp.where(union > 0, union, 1), 0)


def encode(
    boxes: Float[Array, "*n 4"], references: Float[Array, "*n 4"], weights: tuple[float, ...]
) -> Float[Array, "*n 4"]:
    """Deltas (dx, dy, dw, dh) that lead from the references to the boxes; references have positive sides.

    A box without area, which pads a list, gives finite deltas that mean nothing.
    """
    centres, sides = _centres_and_sides(boxes)
    reference_centres, reference_sides = _centres_and_sides(references)
    moves = (centres - reference_centres) / reference_sides
    scales = jnp.log(jnp.where(sides > 0, sides, reference_sides) / reference_sides)
    deltas = jnp.concatenate([moves[..., ::-1], scales[..., ::-1]], axis=-1)
    return deltas * jnp.asarray(weights, deltas.dtype)


def decode(
    deltas: Float[Array, "*n 4"], references: Float[Array, "*n 4"], weights: tuple[float, ...]
) -> Float[Array, "*n 4"]:
    """The inverse of `encode`; a side grows at most 62.5-fold."""
    deltas = deltas / jnp.asarray(weights, deltas.dtype)
    centres, sides = _centres_and_sides(references)
    centres = centres + deltas[..., 1::-1] * sides
    sides = sides * jnp.exp(jnp.minimum(deltas[..., :1:-1], MAX_LOG_SCALE))
    return jnp.concatenate([centres - sides / 2, centres + sides / 2], axis=-1)


def _centres_and_sides(boxes: Float[Array, "*n 4"]) -> tuple[Float[Array, "*n 2"], Float[Array, "*n 2"]]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sides / 2, sides


def clip(boxes: Float[Array, "*n 4"], size: Float[Array, "2"]) -> Float[Array, "*n 4"]:
    """Boxes within an image of `size` (height, width; px)."""
    return jnp.clip(boxes, 0, jnp.concatenate([size, size]))


def level_of(boxes: Float[Array, "*n 4"], lowest: int = 2, highest: int = 5) -> Int[Array, "*n"]:
    """The level of the pyramid that a region is pooled from (Lin et al. 2017, Eq. 1): 224 px are level 4."""
    level = jnp.floor(4 + jnp.log2(jnp.sqrt(areas(boxes)) / 224 + 1e-8))
    return jnp.clip(level, lowest, highest).astype(jnp.int32)
