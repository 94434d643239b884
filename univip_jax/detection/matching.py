"""Which object an anchor or a proposal belongs to, and which of them a step learns from."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from univip_jax.detection.boxes import pairwise_iou

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
_EQUAL = 1 - 1e-6  # overlaps: compilers compute the maximum apart from its parts, and may round it otherwise


def match(
    objects: Float[Array, "G 4"],
    exists: Bool[Array, " G"],
    boxes: Float[Array, "N 4"],
    *,
    low: float,
    high: float,
    best_of_object: bool,
) -> tuple[Int[Array, " N"], Int[Array, " N"]]:
    """The object that each box overlaps most, and whether the box is POSITIVE, NEGATIVE or IGNORED.

    Args:
      exists: objects that are no padding.
      low: IoU below which a box is negative.
      high: IoU from which it is positive; between both it is ignored.
      best_of_object: boxes that overlap an object more than (or as much as) any other do are positive too. Each stays
        with the object that it overlaps most, as in Detectron2.
    """
    iou = jnp.where(exists[:, None], pairwise_iou(objects, boxes), -1)
    best = iou.max(axis=0)
    kind = jnp.where(best >= high, POSITIVE, jnp.where(best < low, NEGATIVE, IGNORED))
    if best_of_object:
        most = iou.max(axis=1, keepdims=True)
        kind = jnp.where(jnp.any((iou >= most * _EQUAL) & (most > 0), axis=0), POSITIVE, kind)
    return iou.argmax(axis=0), kind


def sample(
    key: PRNGKeyArray, kind: Int[Array, " N"], number: int, most_positive: int
) -> tuple[Bool[Array, " N"], Bool[Array, " N"]]:
    """Which positives (at most `most_positive`) and which negatives (up to `number` in all) are drawn.

    Fewer than `number` are drawn where there are not enough.
    """
    priority = jax.random.uniform(key, kind.shape)
    positive = _draw(priority, kind == POSITIVE, most_positive, jnp.array(most_positive))
    negative = _draw(priority, kind == NEGATIVE, number, number - positive.sum())
    return positive, negative


def _draw(priority: Float[Array, " N"], member: Bool[Array, " N"], most: int, number: Array) -> Bool[Array, " N"]:
    """The `number` (at most `most`) members of the highest priority."""
    values, indices = jax.lax.top_k(jnp.where(member, priority, -1), min(most, len(priority)))
    drawn = (values >= 0) & (jnp.arange(len(values)) < number)
    return jnp.zeros(member.shape, bool).at[indices].set(drawn)


def first_positive(
    key: PRNGKeyArray, kind: Int[Array, " N"], number: int, most_positive: int
) -> tuple[Int[Array, " R"], Bool[Array, " R"], Bool[Array, " R"]]:
    """`sample` as a list: indices of the drawn boxes, positives first, filled up to `number`.

    Returns:
      Indices [R], which of them are positive, and which are drawn at all: the others fill the list.
    """
    positive, negative = sample(key, kind, number, most_positive)
    rank = 2 * positive + negative
    values, indices = jax.lax.top_k(rank, min(number, len(rank)))
    return indices, values == 2, values > 0
