"""From the heads' outputs to detections (Detectron2's inference), under static shapes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from univip_jax.detection.boxes import clip, decode
from univip_jax.detection.nms import suppress
from univip_jax.detection.spec import BOX_WEIGHTS


class Detections(NamedTuple):
    """The detections of an image by descending score, padded."""

    boxes: Float[Array, "D 4"]  # yxyx, px of the canvas
    scores: Float[Array, " D"]
    classes: Int[Array, " D"]
    exists: Bool[Array, " D"]
    truncated: Bool[Array, ""]  # candidates were left out, and one of them might have been a detection


def detect(
    logits: Float[Array, "R L"],
    deltas: Float[Array, "R K 4"],
    proposals: Float[Array, "R 4"],
    exists: Bool[Array, " R"],
    size: Float[Array, "2"],
    *,
    threshold: float,
    candidates: int,
    nms: float,
    number: int,
) -> Detections:
    """The detections of one image.

    Args:
      exists: proposals that are no padding.
      size: of the photo on its canvas (height, width; px).
      threshold: scores must be above it.
      candidates: the most pairs of region and class that go into suppression.
      nms: IoU above which the weaker one of a class goes.
    """
    num_classes = deltas.shape[1]
    scores = jax.nn.softmax(logits)[:, :num_classes]
    finite = jnp.isfinite(logits).all(axis=1) & jnp.isfinite(deltas).all(axis=(1, 2))
    good = (exists & finite)[:, None] & (scores > threshold)
    flat = jnp.where(good, scores, -1).ravel()
    scores, best = jax.lax.top_k(flat, min(candidates, len(flat)))
    boxes = clip(decode(deltas.reshape(-1, 4)[best], proposals[best // num_classes], BOX_WEIGHTS), size)
    kept = suppress(boxes, scores > threshold, nms, best % num_classes)
    truncated = ((flat > threshold).sum() > len(scores)) & (kept.sum() < number)
    kept_scores, order = jax.lax.top_k(jnp.where(kept, scores, -1), min(number, len(scores)))
    return Detections(boxes[order], kept_scores, (best % num_classes)[order], kept_scores > threshold, truncated)
