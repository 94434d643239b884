"""Selective search: one photo to candidate boxes (UniVIP section 3.2; Uijlings et al., 2013).

OpenCV returns the same set of boxes for a photo each time, but its order depends on the earlier work of the process
(libc `rand`). So the boxes are sorted, then shuffled by a generator that the photo seeds: a pure function of the photo.
"""

import hashlib

import cv2
import numpy as np
from jaxtyping import Float, UInt8

_SMALLEST_SIDE_PX = 4  # below, there are no regions to merge

# OpenCV's `base_k`, `inc_k` (scales of the segmentation) and `sigma` (its blur, px of the copy). Its defaults, 150, 150
# and 0.8, suit full size: on a small copy they lose small objects (docs/results.md).
SEARCH_PARAMETERS = {"search_base_k": 100, "search_inc_k": 100, "search_sigma": 0.4}


def selective_search(
    pixels: UInt8[np.ndarray, "H W 3"], search_max_side: int, generator: np.random.Generator, mode: str = "fast"
) -> Float[np.ndarray, "N 4"]:
    """Candidate boxes of a photo, without duplicates, in an order drawn by `generator`.

    Args:
        pixels: RGB photo.
        search_max_side: the search runs on a copy whose long side is at most this (px); 0: full size.
        generator: decides the order; give `photo_generator` of the photo.
        mode: `fast`, or `quality`: more colour spaces and scales, several times slower.

    Returns:
        Boxes yxyx in pixels of the photo, float64; none for a photo that is too small to search.
    """
    cv2.setNumThreads(1)  # parallelism is one process per core
    height, width = pixels.shape[:2]
    copy = _shrink(pixels, search_max_side)
    if min(copy.shape[:2]) < _SMALLEST_SIDE_PX:
        return np.zeros([0, 4])
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(copy[..., ::-1]))  # OpenCV wants BGR
    if mode == "quality":
        search.switchToSelectiveSearchQuality()
    else:
        search.switchToSelectiveSearchFast(*SEARCH_PARAMETERS.values())
    x, y, box_width, box_height = np.asarray(search.process(), np.float64).reshape(-1, 4).T
    boxes_yxyx_px = np.unique(np.stack([y, x, y + box_height, x + box_width], axis=-1), axis=0)  # sorted, no duplicates
    scale_y, scale_x = height / copy.shape[0], width / copy.shape[1]
    return generator.permutation(boxes_yxyx_px) * [scale_y, scale_x, scale_y, scale_x]


def photo_generator(encoded: bytes) -> np.random.Generator:
    """A generator that depends on the photo's bytes alone."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(encoded).digest()))


def _shrink(pixels: UInt8[np.ndarray, "H W 3"], max_side: int) -> UInt8[np.ndarray, "h w 3"]:
    """A copy whose long side is at most `max_side`; never larger than the photo."""
    height, width = pixels.shape[:2]
    if not max_side or max(height, width) <= max_side:
        return pixels
    scale = max_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
