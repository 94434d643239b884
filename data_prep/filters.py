"""The filter that turns candidate boxes into proposals, and naive candidates, which ignore the photo's pixels."""

import numpy as np
from jaxtyping import Float

from univip_jax.data import boxes

_NUM_NAIVE = 2000  # candidates drawn; a few dozen survive the overlap rule


def keep(boxes_yxyx_px: Float[np.ndarray, "N 4"], min_side: float, max_boxes: int) -> Float[np.ndarray, "M 4"]:
    """Candidates that become proposals, in their order, at most `max_boxes` (UniVIP section 3.2).

    A box is kept when both sides are at least `min_side` px, its aspect ratio is within 1/3..3, and its IoU with every
    box kept before it is at most 0.5.
    """
    candidates = boxes_yxyx_px[_well_shaped(boxes_yxyx_px, min_side)]
    kept: list[np.ndarray] = []
    # Each kept box removes the candidates that overlap it: one pass per kept box, not one per candidate.
    while len(candidates) and len(kept) < max_boxes:
        kept.append(candidates[0])
        overlap = boxes.pairwise_iou(candidates[:1], candidates)[0]
        candidates = candidates[1:][overlap[1:] <= boxes.MAX_IOU]
    return np.array(kept, boxes_yxyx_px.dtype).reshape(-1, 4)


def _well_shaped(boxes_yxyx_px: Float[np.ndarray, "N 4"], min_side: float) -> np.ndarray:
    """Bool [N]: large enough and neither too flat nor too tall."""
    height, width = (boxes_yxyx_px[:, 2:] - boxes_yxyx_px[:, :2]).T
    large = (height >= min_side) & (width >= min_side) & (height > 0) & (width > 0)
    return large & (width <= boxes.MAX_ASPECT * height) & (height <= boxes.MAX_ASPECT * width)


def naive_candidates(
    height: int, width: int, min_side: float, generator: np.random.Generator
) -> Float[np.ndarray, "N 4"]:
    """Random boxes yxyx in px inside the photo, sides uniform from `min_side` to the photo's (UniVIP Table 8b).

    Pass them through `keep`. A photo smaller than `min_side` in a direction gives none.
    """
    if min(height, width) < min_side:
        return np.zeros([0, 4])
    sides = generator.uniform([min_side, min_side], [height, width], [_NUM_NAIVE, 2])
    corners = generator.uniform(0, 1, [_NUM_NAIVE, 2]) * ([height, width] - sides)
    return np.concatenate([corners, corners + sides], axis=-1)
