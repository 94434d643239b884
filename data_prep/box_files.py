"""Imported boxes: a detector's COCO results, boxes by name, or ORL's json of selective search.

COCO results: a list of {"image_id", "bbox": [x, y, width, height], "score"}, in px, alone or as "annotations" of an
object. The boxes are taken by descending score.

By name: {"NAME": [[x, y, width, height], ...], ...}. ORL (its tools/selective_search.py): {"bbox": [[[x, y, width,
height], ...], ...]}, one list for each of the `images` of the annotations json, in their order. Both in px; the boxes
are taken in the order of the file.

Such files exceed memory (ORL's of COCO has 5 GB): they are read element by element.
"""

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.findings import Findings, label
from data_prep.streaming import Reader
from data_prep.values import LARGEST, key, number
from univip_jax.common.errors import UserError

_FORMATS = (
    'give COCO results [{"image_id", "bbox", "score"}, ...], boxes by name {"NAME": [[x, y, width, height], ...]}, '
    'or ORL\'s {"bbox": [[[x, y, width, height], ...], ...]}'
)


def read_boxes(path: Path | str, min_side: float, findings: Findings) -> dict[int | str, array] | list[np.ndarray]:
    """The boxes of a file, without those that have a side shorter than `min_side` px.

    Adds to the findings what is no box.

    Returns:
        COCO results and boxes by name: by image_id (a text as it is, a number as `coco.key` gives it), rows of score,
        x, y, width, height in the order of the file, flat; the score of boxes by name is 0.
        ORL's: float32 [N, 4] xywh for each list.

    Raises UserError: the file is missing, damaged, or of another kind.
    """
    try:
        with Reader(path) as reader:
            if reader.peek() == "[":
                return _results(reader.elements(), min_side, findings)
            if reader.peek() != "{":
                raise ValueError("it begins neither as a list nor as an object")
            rows: dict[int | str, array] = {}
            odd: list[str] = []
            for name in reader.members():
                if reader.peek() != "[":
                    reader.value()
                    odd.append(name)
                elif name == "annotations":
                    return _results(reader.elements(), min_side, findings)
                elif name == "bbox":
                    return _lists(reader.elements(), min_side, findings)
                else:
                    rows[name], num_odd = _of_name(reader.elements(), min_side)
                    odd += [name] * num_odd
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{findings.source} cannot be read ({type(error).__name__}: {error}): {_FORMATS}") from error
    findings.add("boxes_unusable", *odd)
    return rows


def _results(elements: Iterable[Any], min_side: float, findings: Findings) -> dict[int | str, array]:
    """Rows of score, x, y, width, height by image_id: a text as it is, a number as `key` gives it."""
    rows: dict[int | str, array] = {}
    for place, one in enumerate(elements):
        given = one if isinstance(one, dict) else {}
        image_id, box = given.get("image_id"), _box(given.get("bbox"))
        known = image_id if isinstance(image_id, str) else key(image_id)
        if box is None or known is None:
            findings.add("boxes_unusable", label(one, place))
            continue
        row = rows.setdefault(known, array("d"))
        if min(box[2:]) >= min_side:
            if (score := number(given.get("score", 0.0))) is None:
                findings.add("scores_unusable", label(one, place))
            row.extend((-np.inf if score is None else score, *box))
    return rows


def _of_name(elements: Iterable[Any], min_side: float) -> tuple[array, int]:
    """Rows as `_results` has them, of a list of boxes or one box alone; and the number of elements that are no box."""
    row, num_odd, alone = array("d"), 0, []
    for one in elements:
        if isinstance(one, list) and (box := _box(one)) is not None:
            row.extend((0.0, *box) if min(box[2:]) >= min_side else ())
        elif len(alone) < 4 and number(one) is not None:
            alone.append(one)
        else:
            num_odd += 1
    if not row and not num_odd and (box := _box(alone)) is not None:
        return array("d", (0.0, *box) if min(box[2:]) >= min_side else ()), 0
    return row, num_odd + len(alone)


def _box(value: Any) -> list[float] | None:
    """Four finite numbers, no negative width or height."""
    numbers = [number(one) for one in value] if isinstance(value, list) and len(value) == 4 else [None]
    return None if None in numbers or min(numbers[2:]) < 0 else numbers


def _lists(elements: Iterable[Any], min_side: float, findings: Findings) -> list[np.ndarray]:
    """ORL's lists as boxes xywh, float32 [N, 4]."""
    found = []
    for place, boxes in enumerate(elements):
        try:
            with np.errstate(over="ignore"):
                boxes_xywh_px = np.array(boxes, np.float32).reshape(-1, 4)  # one box alone is not nested
            is_good = bool((np.abs(boxes_xywh_px) <= LARGEST).all() and (boxes_xywh_px[:, 2:] >= 0).all())
        except (ValueError, TypeError, OverflowError):
            is_good = False
        if not is_good:
            each = [_box(box) for box in boxes] if isinstance(boxes, list) else [None]
            findings.add("boxes_unusable", *[f"one of list {place}"] * each.count(None))
            boxes_xywh_px = np.array([box for box in each if box is not None], np.float32).reshape(-1, 4)
        found.append(boxes_xywh_px[(boxes_xywh_px[:, 2:] >= min_side).all(axis=-1)])
    return found
