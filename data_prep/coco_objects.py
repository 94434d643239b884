"""The annotations of one image of a COCO json as arrays: at once where all is as it should be, else one by one."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from data_prep.annotations import Annotations
from data_prep.coco import LARGEST, Coco, Image, key, number
from univip_jax.data.records import Polygons

_UNKNOWN = -1  # label of an object without a category
_CROWD = {None: False, 0: False, "0": False, "": False, "false": False, 1: True, "1": True, "true": True}
_MAX_ID = 2**63 - 1


def read_objects(image: Image, annotations: Sequence[dict], coco: Coco) -> Annotations:
    """The annotations as arrays; what was odd is added to the json's findings.

    A box is [x, y, width, height] of numbers, or of texts of numbers, without a negative size. Where it is none, or has
    no area, the box around the polygons serves; an annotation without either is left out. A box of no area stays here:
    `annotations.in_photo` leaves it out.
    """
    try:
        plain = _plain(annotations)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        plain = None
    boxes, labels, crowds, owners, lengths, points = plain or _careful(image, annotations, coco)
    return Annotations(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(labels, np.int64),
        image.height,
        image.width,
        np.array(crowds, bool),
        Polygons(points.reshape(-1, 2), np.array(lengths, np.int64) // 2, np.array(owners, np.int64)),
    )


def _plain(annotations: Sequence[dict]) -> tuple | None:
    """Boxes, labels, crowds; the polygons' objects, numbers of values, and values; None where anything is odd."""
    boxes = np.array([annotation["bbox"] for annotation in annotations], np.float64)
    labels = [annotation["category_id"] for annotation in annotations]
    if set(map(type, labels)) - {int}:
        return None
    labels = np.array(labels, np.int64)
    crowds = [_CROWD[annotation.get("iscrowd")] for annotation in annotations]
    owners, flats = [], []
    for owner, annotation in enumerate(annotations):
        if outline := annotation.get("segmentation"):
            if type(outline) is list:
                owners += [owner] * len(outline)
                flats += outline
            elif not (crowds[owner] and type(outline) is dict):  # a crowd's mask in run lengths is not stored
                return None
    lengths = list(map(len, flats))
    if annotations and (boxes.shape != (len(annotations), 4) or not (boxes[:, 2:] > 0).all()):
        return None
    if set(map(type, flats)) - {list} or any(length < 6 or length % 2 for length in set(lengths)):
        return None
    if not (np.abs(boxes) <= LARGEST).all():
        return None
    with np.errstate(over="ignore"):
        points = np.array(list(chain.from_iterable(flats)), np.float32)
    return (boxes, labels, crowds, owners, lengths, points) if (np.abs(points) <= LARGEST).all() else None


def _careful(image: Image, annotations: Sequence[dict], coco: Coco) -> tuple:
    """The same of what can be used; counts what is odd."""
    boxes, labels, crowds, owners, flats = [], [], [], [], []
    for annotation in annotations:
        known = annotation.get("id")
        name = f"one of image {image.label}" if known is None else known
        crowd = _crowd(annotation.get("iscrowd"))
        outlines, is_whole = _polygons(annotation.get("segmentation"), bool(crowd))
        box = _box(annotation.get("bbox"))
        if box is None or min(box[2:]) == 0:
            around = _around(outlines)
            kind = "boxes_of_polygons" if around else "boxes_unusable" if box is None else "boxes_empty"
            coco.findings.add(kind, name)
            box = around or box
            if box is None:
                continue
        category = _category(annotation.get("category_id"), coco.categories)
        odd = {"crowds_unknown": crowd is None, "outlines_unusable": not is_whole}
        for kind in [kind for kind, holds in (odd | {"categories_unknown": category is None}).items() if holds]:
            coco.findings.add(kind, name)
        owners += [len(boxes)] * len(outlines)
        flats += outlines
        boxes.append(box)
        labels.append(_UNKNOWN if category is None else category)
        crowds.append(bool(crowd))
    points = np.array(list(chain.from_iterable(flats)), np.float32)
    return boxes, labels, crowds, owners, list(map(len, flats)), points


def _box(value: Any) -> list[float] | None:
    if not isinstance(value, list) or len(value) != 4:
        return None
    numbers = [number(one) for one in value]
    return None if None in numbers or min(numbers[2:]) < 0 else numbers


def _category(value: Any, categories: dict[str, int]) -> int | None:
    """A category's id, from its number, that as text, or its name; None where it is none of these."""
    if isinstance(value, str) and value in categories:
        return categories[value]
    known = key(value)
    return known if isinstance(known, int) and abs(known) <= _MAX_ID else None


def _crowd(value: Any) -> bool | None:
    if isinstance(value, str):
        return _CROWD.get(value.strip().lower())
    return _CROWD.get(value) if value is None else None if number(value) is None else bool(value)


def _polygons(outline: Any, is_crowd: bool) -> tuple[list[list[float]], bool]:
    """The polygons of an outline as flat lists x, y, x, y; and whether that is all of it."""
    if not outline or (is_crowd and isinstance(outline, dict)):
        return [], True
    if (whole := _polygon(outline)) is not None:  # not nested: one polygon
        return [whole], True
    parts = [part for part in outline if part != []] if isinstance(outline, list) else [None]
    polygons = [_polygon(part) for part in parts]
    return [polygon for polygon in polygons if polygon is not None], None not in polygons


def _polygon(values: Any) -> list[float] | None:
    """At least three points as a flat list, from x, y, x, y or from pairs."""
    if not isinstance(values, list):
        return None
    if all(isinstance(one, list) and len(one) == 2 for one in values):
        values = list(chain.from_iterable(values))
    if len(values) < 6 or len(values) % 2:
        return None
    numbers = [number(one) for one in values]
    return None if None in numbers else numbers


def _around(polygons: list[list[float]]) -> list[float] | None:
    """The box [x, y, width, height] around polygons; None where it has no area."""
    if not polygons:
        return None
    points = np.array(list(chain.from_iterable(polygons)), np.float64).reshape(-1, 2)
    (x, y), (width, height) = points.min(axis=0), np.ptp(points, axis=0)
    return [float(x), float(y), float(width), float(height)] if width > 0 and height > 0 else None
