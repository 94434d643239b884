"""Selective search: one photo to candidate boxes (UniVIP section 3.2; Uijlings et al., 2013).

OpenCV returns the same set of boxes for a photo each time, but its order depends on the earlier work of the process
(libc `rand`). So the boxes are sorted, then shuffled by a generator that the photo seeds: a pure function of the photo.
"""

import hashlib
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

_SMALLEST_SIDE_PX = 4  # below, there are no regions to merge

# Of mode `fast`: scales k of the segmentation and `sigma`, its blur in px of the copy. OpenCV's own, k = 150, 300, 450
# and 0.8, suit full size: on a small copy they lose small objects. Each similarity groups the regions of each
# segmentation. A third k, OpenCV's count, takes more time than `fill` and `size` and finds no more (docs/results.md).
SEARCH_PARAMETERS = {
    "search_k": [100, 400],
    "search_sigma": 0.4,
    "search_similarities": ["color fill texture size", "fill texture size", "fill", "size"],
}
# Earlier versions recorded theirs in every data set. Kept where no byte depends on them: those sets resume.
_EARLIER_PARAMETERS = {"search_base_k": 100, "search_inc_k": 100, "search_sigma": 0.4}


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
    search.setBaseImage(bgr := np.ascontiguousarray(copy[..., ::-1]))  # OpenCV wants BGR
    if mode == "quality":
        search.switchToSelectiveSearchQuality()
    else:
        _switch_to_fast(search, bgr)
    x, y, box_width, box_height = np.asarray(search.process(), np.float64).reshape(-1, 4).T
    boxes_yxyx_px = np.unique(np.stack([y, x, y + box_height, x + box_width], axis=-1), axis=0)  # sorted, no duplicates
    scale_y, scale_x = height / copy.shape[0], width / copy.shape[1]
    return generator.permutation(boxes_yxyx_px) * [scale_y, scale_x, scale_y, scale_x]


def search_parameters(proposals: str, mode: str) -> dict:
    """What the manifest and the hash of a data set say of the search: SEARCH_PARAMETERS where they decide its boxes."""
    return SEARCH_PARAMETERS if (proposals, mode) == ("selective_search", "fast") else _EARLIER_PARAMETERS


def _switch_to_fast(search: Any, bgr: UInt8[np.ndarray, "h w 3"]) -> None:
    """Makes OpenCV's `search` one by SEARCH_PARAMETERS in two colour spaces, HSV and Lab."""
    opencv = cv2.ximgproc.segmentation
    for code in (cv2.COLOR_BGR2HSV, cv2.COLOR_BGR2Lab):
        search.addImage(cv2.cvtColor(bgr, code))
    for k in SEARCH_PARAMETERS["search_k"]:
        search.addGraphSegmentation(opencv.createGraphSegmentation(SEARCH_PARAMETERS["search_sigma"], k))
    # One object each: it keeps its histograms of a segmentation, which OpenCV's own fast mode computes twice.
    single = {
        "color": opencv.createSelectiveSearchSegmentationStrategyColor(),
        "fill": opencv.createSelectiveSearchSegmentationStrategyFill(),
        "texture": opencv.createSelectiveSearchSegmentationStrategyTexture(),
        "size": opencv.createSelectiveSearchSegmentationStrategySize(),
    }
    for names in SEARCH_PARAMETERS["search_similarities"]:
        strategies = [single[name] for name in names.split()]
        search.addStrategy(opencv.createSelectiveSearchSegmentationStrategyMultiple(*strategies))


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
