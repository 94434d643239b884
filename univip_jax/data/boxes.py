"""Boxes as plain arrays: yxyx = (y0, x0, y1, x1), fractions of the image's height and width in [0, 1].

Boxes in pixels have `_px` in their name, boxes as (x, y, width, height) have `_xywh` in it.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from univip_jax.views import MAX_ASPECT as MAX_ASPECT
from univip_jax.views import MAX_IOU as MAX_IOU


def pairwise_iou(first: Float[np.ndarray, "N 4"], second: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "N M"]:
    """Intersection over union of every box of `first` with every box of `second`.

    Args:
        first: boxes yxyx; fractions or pixels, but the same for both.
        second: boxes yxyx.

    Returns:
        Values in [0, 1], in the precision of the inputs; 0 where both boxes are empty.
    """
    top_left = np.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    intersection = np.prod(np.maximum(bottom_right - top_left, 0), axis=-1)
    union = areas(first)[:, None] + areas(second)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def areas(boxes: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, " N"]:
    """Areas of boxes yxyx, in the square of their unit; 0 where a box's corners are swapped."""
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=-1)


def from_yxyx_px(boxes_yxyx_px: Float[np.ndarray, "N 4"], height: int, width: int) -> Float[np.ndarray, "N 4"]:
    """Boxes yxyx in pixels of an image of `height` x `width` as float32 fractions, clipped to [0, 1]."""
    size = np.array([height, width, height, width], np.float64)
    return np.clip(boxes_yxyx_px / size, 0, 1).astype(np.float32)


def from_xywh_px(boxes_xywh_px: Float[np.ndarray, "N 4"], height: int, width: int) -> Float[np.ndarray, "N 4"]:
    """COCO boxes (x, y, width, height) in pixels as float32 yxyx fractions, clipped to [0, 1]."""
    x, y, box_width, box_height = np.moveaxis(boxes_xywh_px.astype(np.float64), -1, 0)
    return from_yxyx_px(np.stack([y, x, y + box_height, x + box_width], axis=-1), height, width)


def valid(boxes: Float[np.ndarray, "N 4"]) -> np.ndarray:
    """Bool [N]: finite, inside [0, 1], and with a positive height and width."""
    inside = np.all((boxes >= 0) & (boxes <= 1), axis=-1)
    return inside & (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])


def draw(
    image: Image.Image, side: int, outlines: Iterable[tuple[np.ndarray, str | tuple[int, ...], int]]
) -> Image.Image:
    """The image, resized to a long side of `side` px, with outlines: box yxyx in [0, 1], color, width in px."""
    scale = side / max(image.size)
    picture = image.resize([max(1, round(length * scale)) for length in image.size], Image.Resampling.BICUBIC)
    size = np.array([picture.height, picture.width] * 2) - 1
    for box, color, width in outlines:
        y0, x0, y1, x1 = np.round(box * size).tolist()
        ImageDraw.Draw(picture).rectangle([x0, y0, x1, y1], outline=color, width=width)
    return picture
