"""The annotations of one image of a COCO json as arrays: at once where all is as it should be, else one by one."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from data_prep.annotations import Annotations
from data_prep.coco import Coco, Image
from data_prep.masks import around as around_mask
from data_prep.masks import read_mask
from data_prep.values import LARGEST, MAX_ID, key, number
from univip_jax.data.annotated import Polygons

_UNKNOWN = -1  # label of an object without a category
_CROWD = {None: False, 0: False, "0": False, "": False, "false": False, 1: True, "1": True, "true": True}


def read_objects(image: Image, annotations: Sequence[dict], coco: Coco) -> Annotations:
    """The annotations as arrays; what was odd is added to the json's findings.

    A box is [x, y, width, height] of numbers, or of texts of numbers, without a negative size. Where it is none, or has
    no area, the box around the polygons serves; an annotation without either is left out. A box of no area stays here:
    `annotations.in_photo` leaves it out.
    """
    try:
        plain = _plain(annotations, image)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        plain = None
    used, boxes, labels, crowds, masks, owners, lengths, points = plain or _careful(image, annotations, coco)
    areas = [found if (found := number(one.get("area"))) and found > 0 else np.nan for one in used]
    without = np.flatnonzero(np.isnan(areas))
    coco.findings.add("areas_unusable", *(_name(used[place], image) for place in without))
    if unlisted := set(labels) - coco.categories.keys() - {_UNKNOWN}:
        names = (_name(one, image) for one, label in zip(used, labels, strict=True) if label in unlisted)
        coco.findings.add("categories_unlisted", *names)
    height, width = _frame(image, masks)
    return Annotations(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(labels, np.int64),
        height,
        width,
        np.array(crowds, bool),
        Polygons(points.reshape(-1, 2), np.array(lengths, np.int64) // 2, np.array(owners, np.int64)),
        json_id=image.json_id,
        areas=np.array(areas, np.float64),
        masks=tuple(masks),
    )


def _name(annotation: dict, image: Image) -> Any:
    """What a finding calls an annotation."""
    known = annotation.get("id")
    return f"one of image {image.label}" if known is None else known


def _frame(image: Image, masks: Sequence[dict | None]) -> tuple[int, int]:
    """Height and width that an image's masks must have: its own, or those of the first; 0 where neither is known."""
    size = next((mask["size"] for mask in masks if mask), (0, 0))
    return (image.height, image.width) if image.height else (size[0], size[1])


def _plain(annotations: Sequence[dict], image: Image) -> tuple | None:
    """As `_careful` gives it; None where anything is odd."""
    boxes = np.array([annotation["bbox"] for annotation in annotations], np.float64)
    labels = [annotation["category_id"] for annotation in annotations]
    if set(map(type, labels)) - {int}:
        return None
    crowds = [_CROWD[annotation.get("iscrowd")] for annotation in annotations]
    masks: list[dict | None] = [None] * len(annotations)
    owners, flats = [], []
    for owner, annotation in enumerate(annotations):
        if outline := annotation.get("segmentation"):
            if type(outline) is list:
                owners += [owner] * len(outline)
                flats += outline
            elif (mask := read_mask(outline)) is not None:
                masks[owner] = mask
            else:
                return None
    lengths = list(map(len, flats))
    if annotations and (boxes.shape != (len(annotations), 4) or not (boxes[:, 2:] > 0).all()):
        return None
    if set(map(type, flats)) - {list} or any(length < 6 or length % 2 for length in set(lengths)):
        return None
    if not (np.abs(boxes) <= LARGEST).all() or any(abs(label) > MAX_ID for label in labels):
        return None
    if any(mask and tuple(mask["size"]) != _frame(image, masks) for mask in masks):
        return None
    with np.errstate(over="ignore"):
        points = np.array(list(chain.from_iterable(flats)), np.float32)
    found = (annotations, boxes, labels, crowds, masks, owners, lengths, points)
    return found if (np.abs(points) <= LARGEST).all() else None


def _careful(image: Image, annotations: Sequence[dict], coco: Coco) -> tuple:
    """The annotations that can be used, their boxes, labels, crowds, masks; the polygons' objects, numbers of values,
    and values. Counts what is odd."""
    used, boxes, labels, crowds, masks, owners, flats = [], [], [], [], [], [], []
    for annotation in annotations:
        name, outline = _name(annotation, image), annotation.get("segmentation")
        crowd, mask = _crowd(annotation.get("iscrowd")), read_mask(outline)
        outlines, is_whole = ([], True) if mask else _polygons(outline)
        if mask and tuple(mask["size"]) != _frame(image, [*masks, mask]):
            coco.findings.add("masks_of_another_size", name)
            mask = None
        box = _box(annotation.get("bbox"))
        if box is None or min(box[2:]) == 0:
            around = around_mask(mask) if mask else _around(outlines)
            kind = "boxes_of_outlines" if around else "boxes_unusable" if box is None else "boxes_empty"
            coco.findings.add(kind, name)
            box = around or box
            if box is None:
                continue
        category = _category(annotation.get("category_id"), coco.ids)
        odd = {"crowds_unknown": crowd is None, "outlines_unusable": not is_whole}
        for kind in [kind for kind, holds in (odd | {"categories_unknown": category is None}).items() if holds]:
            coco.findings.add(kind, name)
        owners += [len(boxes)] * len(outlines)
        flats += outlines
        used.append(annotation)
        boxes.append(box)
        labels.append(_UNKNOWN if category is None else category)
        crowds.append(bool(crowd))
        masks.append(mask)
    points = np.array(list(chain.from_iterable(flats)), np.float32)
    return used, boxes, labels, crowds, masks, owners, list(map(len, flats)), points


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
    return known if isinstance(known, int) and abs(known) <= MAX_ID else None


def _crowd(value: Any) -> bool | None:
    if isinstance(value, str):
        return _CROWD.get(value.strip().lower())
    return _CROWD.get(value) if value is None else None if number(value) is None else bool(value)


def _polygons(outline: Any) -> tuple[list[list[float]], bool]:
    """The polygons of an outline as flat lists x, y, x, y; and whether that is all of it."""
    if not outline:
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
