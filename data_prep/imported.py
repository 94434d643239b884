"""Imported boxes: a detector's COCO results json, or ORL's json of selective search.

COCO results: a list of {"image_id", "bbox": [x, y, width, height], "score"}, in px. A number as image_id is looked up
in the annotations json; a text is the photo's file name. The boxes are taken by descending score.

ORL (its tools/selective_search.py): {"bbox": [[[x, y, width, height], ...], ...]}, in px, one list for each of the
`images` of the annotations json, in their order. The boxes are taken in the order of the file.

Such files exceed memory (ORL's of COCO has 5 GB): they are read element by element.
"""

import json
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from data_prep.annotations import Annotations, match
from univip_jax.common.errors import UserError

_CHUNK = 1 << 22  # characters
_NAMED = 5  # names that the report gives as examples


class Imported(NamedTuple):
    """Candidate boxes by image id, and the photos and entries without a match, as the manifest stores them."""

    candidates: dict[str, Annotations]
    report: dict[str, Any]


def read_proposals(
    paths: Sequence[Path | str], entries: Sequence[list[dict]], image_ids: Sequence[str], min_side: float
) -> Imported:
    """Reads files of boxes and assigns them to photos.

    Args:
        paths: COCO results or ORL's json.
        entries: for each path, the `images` of the annotations json that belongs to it; empty where there is none.
        image_ids: the photos; matched as annotations are.
        min_side: boxes with a shorter side (px of the annotated photo) are dropped while reading.

    Raises UserError: a file is missing or of another kind, lacks its annotations json, or has boxes for no photo.
    """
    by_name: dict[str, Annotations] = {}
    for path, images in zip(paths, entries, strict=True):
        try:
            with open(path, encoding="utf-8") as file:
                by_name |= _read_file(file, path, images, min_side)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"--proposals_file={path} cannot be read ({type(error).__name__}: {error}): give COCO results "
                '[{"image_id", "bbox", "score"}, ...] or ORL\'s {"bbox": [[[x, y, width, height], ...], ...]}'
            ) from error
    names = match(by_name, image_ids)
    if not names:
        raise UserError(
            f"--proposals_file={paths[0]} has boxes for none of the {len(image_ids)} photos (such as {image_ids[0]}), "
            f"but for {next(iter(by_name), 'no image')}: give the file, and the --annotations, that belong to --images"
        )
    without_boxes = [image_id for image_id in image_ids if image_id not in names]
    without_photo = sorted(by_name.keys() - set(names.values()))
    report = {
        "photos_without_boxes": len(without_boxes),
        "first_photos_without_boxes": without_boxes[:_NAMED],
        "images_without_photo": len(without_photo),
        "first_images_without_photo": without_photo[:_NAMED],
    }
    return Imported({image_id: by_name[name] for image_id, name in names.items()}, report)


def describe(report: dict[str, Any]) -> list[str]:
    """Photos and entries without a match, in lines for people; empty where all have one."""
    kinds = {
        "photos_without_boxes": "photos have no boxes in the file",
        "images_without_photo": "images of the file are no photos here",
    }
    return [
        f"{report[key]} {words} (first: {', '.join(map(repr, report[f'first_{key}']))})"
        for key, words in kinds.items()
        if report.get(key)
    ]


def _read_file(file: TextIO, path: Path | str, images: list[dict], min_side: float) -> dict[str, Annotations]:
    """Candidates by the photo's name in the file or in the annotations json."""
    start = file.read(_CHUNK)
    if head := re.match(r"\s*\[", start):
        return _results(_elements(file, start[head.end() :]), {image["id"]: image for image in images}, path, min_side)
    if head := re.match(r'\s*{\s*"bbox"\s*:\s*\[', start):
        return _orl(_elements(file, start[head.end() :]), images, path, min_side)
    raise ValueError("it begins neither as a list nor as ORL's object")


def _results(elements: Iterator[dict], images: dict, path: Path | str, min_side: float) -> dict[str, Annotations]:
    rows: dict[Any, array] = {}
    for one in elements:
        x, y, width, height = one["bbox"]
        row = rows.setdefault(one["image_id"], array("d"))
        if min(width, height) >= min_side:
            row.extend((one.get("score", 0.0), x, y, width, height))
    if not images and any(not isinstance(image_id, str) for image_id in rows):
        raise UserError(
            f"--proposals_file={path} names photos by numbers: give the --annotations json with their file names"
        )
    by_name = {}
    for image_id, values in rows.items():
        scored = np.array(values, np.float64).reshape(-1, 5)
        image = images.get(image_id) or {"file_name": str(image_id)}
        by_name[image["file_name"]] = _candidates(scored[np.argsort(-scored[:, 0], kind="stable"), 1:], image)
    return by_name


def _orl(elements: Iterator[list], images: list[dict], path: Path | str, min_side: float) -> dict[str, Annotations]:
    candidates = []
    for boxes in elements:
        boxes_xywh_px = np.array(boxes, np.float32).reshape(-1, 4)  # one box alone is not nested
        candidates.append(boxes_xywh_px[(boxes_xywh_px[:, 2:] >= min_side).all(axis=-1)])
    if len(candidates) != len(images):
        raise UserError(
            f"--proposals_file={path} is ORL's, without names, for {len(candidates)} photos in the order of an "
            f"annotations json; --annotations has {len(images)}: give the json that it was made from"
        )
    return {image["file_name"]: _candidates(one, image) for one, image in zip(candidates, images, strict=True)}


def _candidates(boxes_xywh_px: np.ndarray, image: dict) -> Annotations:
    good = boxes_xywh_px[np.isfinite(boxes_xywh_px).all(axis=-1)]
    size = int(image.get("height") or 0), int(image.get("width") or 0)
    return Annotations(good, np.zeros([len(good)], np.int64), *size)


def _elements(file: TextIO, text: str) -> Iterator[Any]:
    """The elements of a json list, one at a time; `text` begins after its opening bracket.

    They are objects or lists: the end of one does not depend on the text behind it.
    """
    decoder, start = json.JSONDecoder(), 0
    while True:
        while start < len(text) and text[start] in ", \t\r\n":
            start += 1
        if text.startswith("]", start):
            return
        try:
            value, start = decoder.raw_decode(text, start)
        except ValueError:
            more = file.read(_CHUNK)
            if not more:
                raise
            text, start = text[start:] + more, 0
        else:
            yield value
