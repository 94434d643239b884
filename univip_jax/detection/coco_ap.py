"""COCO's average precision of boxes and masks, by pycocotools, in the frame of the json (Lin et al. 2014).

Crowds are regions to ignore, as in COCO's own protocol. Detections are in COCO's results format, which others read.
"""

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

STATISTICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # in percent
KINDS = {"box": "bbox", "mask": "segm"}


class Found(NamedTuple):
    """What a detector found in one photo."""

    image_id: int | str
    height: int  # px of the photo in the json
    width: int
    boxes_yxyx_px: Float[np.ndarray, "n 4"]  # in the frame of the json
    scores: Float[np.ndarray, " n"]
    categories: Sequence[int]  # the json's ids
    masks: Float[np.ndarray, "n q q"] | None = None  # probabilities over each box


def results_of(found: Found) -> list[dict[str, Any]]:
    """A photo's detections as entries of a COCO results file; boxes without area are left out."""
    limits = np.array([found.height, found.width] * 2)
    boxes = np.clip(found.boxes_yxyx_px.astype(np.float64), 0, limits)
    results = []
    for index, (y0, x0, y1, x1) in enumerate(boxes.tolist()):
        if y1 <= y0 or x1 <= x0:
            continue
        entry = {
            "image_id": found.image_id,
            "category_id": found.categories[index],
            "bbox": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
            "score": float(found.scores[index]),
        }
        if found.masks is not None:
            entry["segmentation"] = encode(paste(found.masks[index], boxes[index], found.height, found.width))
        results.append(entry)
    return results


def paste(mask: Float[np.ndarray, "q q"], box: Float[np.ndarray, "4"], height: int, width: int) -> np.ndarray:
    """Bool [height, width]: where a mask over a box is at least a half, interpolated at the pixels' centres.

    Outside its box a mask is 0 (Detectron2: `grid_sample` with zero padding).
    """
    spans, weights = [], []
    for start, stop, length in zip(box[:2], box[2:], (height, width), strict=True):
        first, last = max(0, int(np.floor(start)) - 1), min(length, int(np.ceil(stop)) + 1)
        place = (np.arange(first, last) + 0.5 - start) / max(stop - start, 1e-6) * len(mask) - 0.5
        spans.append(slice(first, last))
        weights.append(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(len(mask)))))
    pasted = np.zeros([height, width], bool)
    pasted[spans[0], spans[1]] = weights[0] @ mask @ weights[1].T >= 0.5
    return pasted


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Bool [H, W] as run lengths in COCO's compressed text."""
    encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def average_precision(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], kinds: Iterable[str] = KINDS
) -> dict[str, Any]:
    """`STATISTICS` of each kind, in percent, and `per_class`, the AP of each category by its name.

    Args:
      truth: the contents of a COCO json.
      results: entries of `results_of`.

    A statistic without any object to find is None.
    """
    order = sorted(results, key=lambda entry: str(entry["image_id"]))  # pycocotools breaks ties of scores by order
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        return {kind: _of_kind(coco, order, KINDS[kind]) for kind in kinds}


def _of_kind(coco: COCO, results: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    # It would take the first entry to be typical, and there may be none.
    found = coco.loadRes([dict(entry) for entry in results]) if results else _nothing(coco)
    evaluation = COCOeval(coco, found, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class], any size, 100 detections
    names = [coco.cats[number]["name"] for number in evaluation.params.catIds]
    of_class = {name: _percent(precision[:, :, index]) for index, name in enumerate(names)}
    values = [None if value < 0 else 100 * float(value) for value in evaluation.stats[: len(STATISTICS)]]
    return dict(zip(STATISTICS, values, strict=True)) | {"per_class": of_class}


def _percent(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else None


def _nothing(coco: COCO) -> COCO:
    empty = COCO()
    empty.dataset = {"images": coco.dataset["images"], "categories": coco.dataset["categories"], "annotations": []}
    empty.createIndex()
    return empty
