"""Masks in COCO's run lengths: read with their sizes checked, turned as EXIF says, and measured in px."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from pycocotools import mask as rle

from data_prep.values import key, number

_LARGEST_PX = 2**28  # of a mask: it is decoded to be turned, a byte each
_RASTER_PX = 4096  # longer sides are measured on a smaller grid
_LETTER, _BITS, _MORE, _NEGATIVE = 48, 0x1F, 0x20, 0x10  # COCO's letters hold 5 bits each, the lowest first


def read_mask(outline: Any) -> dict | None:
    """COCO's {"size": [height, width], "counts": text or list}, alone or in a list, with compressed counts; else None.

    The runs must fill the size exactly: pycocotools would read and write out of bounds.
    """
    if isinstance(outline, list) and len(outline) == 1:
        outline = outline[0]
    size = outline.get("size") if isinstance(outline, dict) else None
    if not isinstance(size, list) or len(size) != 2:
        return None
    height, width = map(key, size)
    if not (isinstance(height, int) and isinstance(width, int)) or min(height, width) < 1:
        return None
    counts = outline.get("counts")
    runs = runs_of(counts.encode()) if isinstance(counts, str) else _whole(counts)
    if height * width > _LARGEST_PX or runs is None or runs.min() < 0 or runs.sum() != height * width:
        return None
    return rle.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)


def runs_of(counts: bytes) -> Int[np.ndarray, " R"] | None:
    """Run lengths from COCO's compressed counts, background first; None where they are none.

    Each run is a number of letters; from the fourth on, it is stored less the last but one.
    """
    letters = np.frombuffer(counts, np.uint8).astype(np.int64) - _LETTER
    if not len(letters) or letters.min() < 0 or letters.max() >= 2 * _MORE or letters[-1] & _MORE:
        return None
    last = np.flatnonzero(letters & _MORE == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(letters)) - np.repeat(first, last - first + 1)
    if place.max() > 6:  # more than 32 bits
        return None
    runs = np.add.reduceat((letters & _BITS) << 5 * place, first)
    runs -= (letters[last] & _NEGATIVE != 0).astype(np.int64) << 5 * (last - first + 1)
    for start in (1, 2):
        runs[start::2] = np.cumsum(runs[start::2])
    return runs


def _whole(counts: Any) -> Int[np.ndarray, " R"] | None:
    if not isinstance(counts, list) or not counts:
        return None
    numbers = [one if type(one) is int else number(one) for one in counts]
    if any(one is None or not 0 <= one <= _LARGEST_PX or one != int(one) for one in numbers):
        return None
    return np.array(numbers, np.int64)


def turned(mask: dict, orientation: int) -> dict:
    """Moves a mask from the frame of the encoded pixels into the upright photo; EXIF's orientation, 1 to 8."""
    if orientation == 1:
        return mask
    pixels = rle.decode(mask)
    if orientation >= 5:  # rows are shown as columns
        pixels = pixels.T
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return rle.encode(np.asfortranarray(pixels))


def area(mask: dict) -> int:
    """Pixels of a mask."""
    return int(rle.area(mask))


def around(mask: dict) -> list[float] | None:
    """The box [x, y, width, height] around a mask, px; None where it is empty."""
    box = rle.toBbox(mask).tolist()
    return box if min(box[2:]) > 0 else None


def area_of_polygons(polygons: Sequence[Float[np.ndarray, "p 2"]], height: int, width: int) -> float:
    """Pixels that polygons (xy, px) cover in a frame of `height` x `width` px, by COCO's rule."""
    scale = min(1, _RASTER_PX / max(height, width))
    inside = [np.clip(points.astype(np.float64), 0, [width, height]) * scale for points in polygons]
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return rle.area(rle.merge(rle.frPyObjects([points.ravel().tolist() for points in inside], *size))) / scale**2
