"""torchvision without its compiled operators: pooling as in Detectron2, suppression by a loop.

PyPI's torchvision is built for CUDA: beside PyTorch's CPU build its operators do not load, and transformers fails where
it finds such a torchvision. `make test-export` therefore puts it into a folder of its own.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if find_spec("torchvision") is None:
    sys.path.append(str(Path(sys.prefix, "torchvision")))  # as in the Makefile
if (found := find_spec("torchvision")) is None:
    pytest.skip("torchvision is not installed: make test-export", allow_module_level=True)
try:
    torch.ops.load_library(Path(found.origin).with_name("_C.so"))
except OSError:  # importing it needs these two to be there
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision.ops import box_iou
from torchvision.ops.roi_align import _roi_align

AT_ONCE = 16  # channels: a region takes their number times its bins times the cells of the map


def aligned(features, rois, output_size, spatial_scale, sampling_ratio):
    """torchvision's `roi_align(aligned=True)`, [n, c, bins, bins]; rois: number of the image, then xyxy."""
    pooled = features.new_zeros(len(rois), features.shape[1], *output_size)
    for place, roi in zip(pooled, rois, strict=True):
        for part, channels in zip(place.split(AT_ONCE), features.split(AT_ONCE, dim=1), strict=True):
            part[:] = _roi_align.__wrapped__(channels, roi[None], spatial_scale, *output_size, sampling_ratio, True)[0]
    return pooled


def greedy(corners, scores, iou_threshold):
    """Numbers of the boxes that greedy suppression keeps, by descending score."""
    overlaps, order = box_iou(corners, corners), scores.argsort(descending=True, stable=True).tolist()
    kept: list[int] = []
    for number in order:
        if not (overlaps[number, kept] > iou_threshold).any():
            kept.append(number)
    return torch.tensor(kept, dtype=torch.long)
