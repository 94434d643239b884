"""From anchors to proposals: the best of each level, decoded, clipped and suppressed."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from univip_jax.detection.boxes import clip, decode
from univip_jax.detection.nms import suppress
from univip_jax.detection.spec import RPN_WEIGHTS


class Proposals(NamedTuple):
    """The proposals of an image by descending score, padded."""

    boxes: Float[Array, "P 4"]  # yxyx, px
    scores: Float[Array, " P"]  # logits
    exists: Bool[Array, " P"]


def propose(
    logits: Sequence[Float[Array, " _a"]],
    deltas: Sequence[Float[Array, "_a 4"]],
    anchors: Sequence[Float[np.ndarray, "_a 4"]],
    size: Float[Array, "2"],
    *,
    candidates: int,
    number: int,
    threshold: float,
) -> Proposals:
    """The proposals of one image; no gradient flows through them.

    Args:
      logits, deltas, anchors: of each level.
      size: of the photo on its canvas (height, width; px).
      candidates: the most of a level that go into suppression.
      number: P, of all levels.
      threshold: of suppression, level by level.
    """
    found = []
    for of_level, moves, references in zip(logits, deltas, anchors, strict=True):
        scores, best = jax.lax.top_k(jax.lax.stop_gradient(of_level), min(candidates, len(of_level)))
        boxes = clip(decode(jax.lax.stop_gradient(moves)[best], jnp.asarray(references)[best], RPN_WEIGHTS), size)
        exists = (boxes[:, 2:] > boxes[:, :2]).all(axis=-1) & jnp.isfinite(boxes).all(axis=-1) & jnp.isfinite(scores)
        found.append((boxes, scores, suppress(boxes, exists, threshold)))
    boxes, scores, kept = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
    scores, best = jax.lax.top_k(jnp.where(kept, scores, -jnp.inf), min(number, len(scores)))
    exists = scores > -jnp.inf
    # Padding has an area, so that what is computed of it stays finite.
    return Proposals(jnp.where(exists[:, None], boxes[best], jnp.array([0.0, 0, 1, 1])), scores, exists)
