"""Greedy non-maximum suppression without a loop over boxes: the fixed point of its own definition."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from univip_jax.detection.boxes import pairwise_iou


def suppress(
    boxes: Float[Array, "N 4"], valid: Bool[Array, " N"], threshold: float, groups: Int[Array, " N"] | None = None
) -> Bool[Array, " N"]:
    """Which boxes greedy suppression keeps; `boxes` by descending score.

    A box is kept where no kept box before it, of its group, overlaps it by more than `threshold`. That sentence is
    iterated from "all are kept" until nothing changes: after n rounds the first n decisions are final, and in practice
    two to ten rounds are enough.

    Args:
      boxes: yxyx, px.
      valid: others are neither kept nor suppress any box.
      threshold: IoU above which the later box goes.
      groups: boxes of different groups (classes) do not touch each other; None: one group.
    """
    overlaps = pairwise_iou(boxes, boxes) > threshold
    if groups is not None:
        overlaps &= groups[:, None] == groups[None, :]
    before = jnp.arange(len(boxes))[:, None] < jnp.arange(len(boxes))[None, :]
    suppresses = overlaps & before & valid[:, None]  # [i, j]: i removes j where i is kept

    def unsettled(state: tuple[Bool[Array, " N"], Bool[Array, ""]]) -> Bool[Array, ""]:
        return state[1]

    def decide(state: tuple[Bool[Array, " N"], Bool[Array, ""]]) -> tuple[Bool[Array, " N"], Bool[Array, ""]]:
        kept, _ = state
        now = valid & ~jnp.any(suppresses & kept[:, None], axis=0)
        return now, jnp.any(now != kept)

    return jax.lax.while_loop(unsettled, decide, (valid, valid.any()))[0]
