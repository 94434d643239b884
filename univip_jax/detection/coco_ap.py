"""COCO's average precision of boxes and masks, by pycocotools, in the frame of the json (Lin et al. 2014).

Crowds are regions to ignore, as in COCO's own protocol. Detections are in COCO's results format, which others read.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

STATISTICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # in percent
IOUS = np.linspace(0.5, 0.95, 10)
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
    pasted = np.zeros([height, width], bool, order="F")  # as run lengths go
    pasted[spans[0], spans[1]] = weights[0] @ mask @ weights[1].T >= 0.5
    return pasted


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Bool [H, W] as run lengths in COCO's compressed text."""
    encoded = rle.encode(np.asfortranarray(mask, bool).view(np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Bool [height, width] of polygons or run lengths of a COCO json."""
    coded = segmentation
    if isinstance(segmentation, list):
        coded = rle.merge(rle.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        coded = rle.frPyObjects(segmentation, height, width)
    return rle.decode(coded).astype(bool)


class PhotoMatches(NamedTuple):
    """How the detections of a photo meet its objects, at IoU .5; those over ignored regions are left out."""

    results: Int[np.ndarray, " n"]  # positions in the list of results
    correct: Bool[np.ndarray, " n"]
    objects: Int[np.ndarray, " m"]  # ids of the annotations to be found
    found_at: Float[np.ndarray, " m"]  # score of the detection that found each; -1: none


class Score(NamedTuple):
    """How good detections are, by boxes or by masks; percent, None without any object to find."""

    statistics: dict[str, float | None]  # of `STATISTICS`
    per_class: dict[str, float | None]  # AP by the category's name
    precision: Float[np.ndarray, "T R K"]  # at `IOUS`, 101 recalls from 0 to 1 and each category; -1: no object
    photos: dict[int | str, PhotoMatches]  # by image id


def average_precision(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], kinds: Iterable[str] = KINDS
) -> dict[str, Score]:
    """The score of each kind.

    Args:
      truth: the contents of a COCO json. An object without a mask is a region to ignore where masks are judged.
      results: entries of `results_of`.
    """
    # pycocotools takes ids of one type only, and breaks ties of scores by their order.
    ids = sorted((image["id"] for image in truth["images"]), key=id_order)
    numbers = {given: number for number, given in enumerate(ids)}
    order = sorted(range(len(results)), key=lambda place: numbers[results[place]["image_id"]])
    numbered = [results[place] | {"image_id": numbers[results[place]["image_id"]]} for place in order]
    annotations = [one | {"image_id": numbers[one["image_id"]]} for one in truth["annotations"]]
    images = [image | {"id": numbers[image["id"]]} for image in truth["images"]]
    truth = {"images": images, "categories": truth["categories"], "annotations": annotations}
    scores = {}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        for kind in kinds:
            score, evaluation = _of_kind(truth, numbered, KINDS[kind])
            photos = {ids[number]: found for number, found in _matches(evaluation, np.array(order, int)).items()}
            scores[kind] = score._replace(photos=photos)
    return scores


def id_order(image_id: int | str) -> tuple[bool, int | str]:
    """Key of the order in which images are judged and written: numbers, then texts."""
    return isinstance(image_id, str), image_id


def _of_kind(truth: dict[str, Any], results: list[dict[str, Any]], kind: str) -> tuple[Score, COCOeval]:
    """The score without photos."""
    coco = COCO()
    coco.dataset = truth if kind == "bbox" else truth | {"annotations": [*map(_with_mask, truth["annotations"])]}
    coco.createIndex()
    # It would take the first entry to be typical, and there may be none.
    found = coco.loadRes([dict(entry) for entry in results]) if results else _nothing(coco)
    evaluation = COCOeval(coco, found, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # any size, 100 detections
    names = [coco.cats[number]["name"] for number in evaluation.params.catIds]
    of_class = {name: _percent(precision[:, :, index]) for index, name in enumerate(names)}
    values = [None if value < 0 else 100 * float(value) for value in evaluation.stats[: len(STATISTICS)]]
    return Score(dict(zip(STATISTICS, values, strict=True)), of_class, precision, {}), evaluation


def _with_mask(annotation: dict[str, Any]) -> dict[str, Any]:
    """The annotation, or a crowd of its box where it has no mask."""
    if annotation.get("segmentation"):
        return annotation
    x, y, width, height = annotation["bbox"]
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return annotation | {"iscrowd": 1, "segmentation": [corners]}


def _matches(evaluation: COCOeval, order: Int[np.ndarray, " N"]) -> dict[int, PhotoMatches]:
    """Of each photo, over all categories; `order`: positions in the list of results of what was judged."""
    parts: dict[int, list[dict[str, Any]]] = {int(number): [] for number in evaluation.params.imgIds}
    for one in evaluation.evalImgs:
        if one is not None and one["aRng"] == evaluation.params.areaRng[0]:
            parts[one["image_id"]].append(one)

    def joined(photo: list[dict[str, Any]], values: Callable[[dict[str, Any]], Any]) -> np.ndarray:
        return np.concatenate([np.zeros(0, int), *(np.asarray(values(one), int) for one in photo)])

    found = {}
    for number, photo in parts.items():
        counted = joined(photo, lambda one: one["dtIgnore"][0]) == 0
        places = order[joined(photo, lambda one: one["dtIds"])[counted] - 1]
        correct = joined(photo, lambda one: one["dtMatches"][0])[counted] > 0
        sought = joined(photo, lambda one: one["gtIgnore"]) == 0
        finders = joined(photo, lambda one: one["gtMatches"][0])[sought]
        scores = np.array([evaluation.cocoDt.anns[one]["score"] if one else -1 for one in finders], float)
        found[number] = PhotoMatches(places, correct, joined(photo, lambda one: one["gtIds"])[sought], scores)
    return found


def _percent(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else None


def _nothing(coco: COCO) -> COCO:
    empty = COCO()
    empty.dataset = {"images": coco.dataset["images"], "categories": coco.dataset["categories"], "annotations": []}
    empty.createIndex()
    return empty
