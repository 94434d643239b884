"""Annotated objects: COCO's instances json by photo, and boxes and polygons in the frame of the photo as stored."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from univip_jax.common.errors import UserError
from univip_jax.data import boxes
from univip_jax.data.photos.decode import Rejected, StoredPhoto
from univip_jax.data.photos.listing import Objects
from univip_jax.data.records import Polygons


class Annotations(NamedTuple):
    """One photo's annotations in a COCO json."""

    boxes_xywh_px: np.ndarray  # float64 [M, 4]
    labels: np.ndarray  # int64 [M], category ids
    height: int  # px, of the annotated photo; 0 where the json gives no size
    width: int  # px
    is_crowd: np.ndarray | None = None  # bool [M], a box around many things; None: no crowds
    polygons_xy_px: Polygons = Polygons()  # points float32 [P, 2] xy in px; crowds (masks in run lengths) have none


def in_photo(annotations: Annotations, stored: StoredPhoto) -> Objects:
    """The annotations in the frame of the stored photo, without boxes that lie outside it.

    A photo that its EXIF tag turns upright may have been annotated before or after the turn: the size in the json
    decides. Where it fits both (a square photo, half a turn), the json means the pixels as encoded, as COCO's does.

    Raises Rejected: the json gives another shape.
    """
    height, width = stored.pixels.shape[:2]
    encoded_height, encoded_width = (width, height) if stored.orientation >= 5 else (height, width)
    # A json that gives no size means the photo as encoded.
    of_height, of_width = annotations.height or stored.original_height, annotations.width or stored.original_width
    as_encoded = _same_shape(of_height, of_width, encoded_height, encoded_width)
    if not as_encoded and not _same_shape(of_height, of_width, height, width):
        raise Rejected(f"annotations are of another size: {of_width} x {of_height}, photo {width} x {height}")
    is_crowd = annotations.is_crowd
    points = annotations.polygons_xy_px.points[:, ::-1] / np.array([of_height, of_width], np.float64)
    objects = Objects(
        boxes.from_xywh_px(annotations.boxes_xywh_px, of_height, of_width),
        annotations.labels,
        np.zeros([len(annotations.labels)], bool) if is_crowd is None else is_crowd,
        annotations.polygons_xy_px._replace(points=np.clip(points, 0, 1).astype(np.float32)),
    )
    return turned(objects, stored.orientation if as_encoded else 1)


def fingerprint(annotations: Annotations) -> bytes:
    """Equal for equal annotations, as the bytes of a digest."""
    digest = hashlib.sha256(f"{annotations.height} {annotations.width}".encode())
    crowds = annotations.is_crowd
    for values in (annotations.boxes_xywh_px, annotations.labels, crowds, *annotations.polygons_xy_px):
        digest.update(b"|" + (b"" if values is None else values.tobytes()))
    return digest.digest()


def turned(objects: Objects, orientation: int) -> Objects:
    """Moves objects from the frame of the encoded pixels into the upright photo, without boxes outside it."""
    one, other = (turn_points(objects.boxes[:, corner], orientation) for corner in (slice(0, 2), slice(2, 4)))
    turned_boxes = np.concatenate([np.minimum(one, other), np.maximum(one, other)], axis=-1)
    points = turn_points(objects.polygons.points, orientation)
    return _only(objects._replace(boxes=turned_boxes, polygons=objects.polygons._replace(points=points)))


def turn_points(points: np.ndarray, orientation: int) -> np.ndarray:
    """Moves points [..., 2] yx in [0, 1] from the encoded pixels into the upright photo; EXIF's orientation, 1 to 8."""
    y, x = np.moveaxis(points, -1, 0)
    if orientation >= 5:  # rows are shown as columns
        y, x = x, y
    if orientation in (3, 4, 7, 8):
        y = 1 - y
    if orientation in (2, 3, 6, 7):
        x = 1 - x
    return np.stack([y, x], axis=-1)


def _same_shape(height: int, width: int, other_height: int, other_width: int) -> bool:
    # A smaller copy of the annotated photo fits, a turned or cropped one does not; 2 px allow for rounding.
    return abs(width * other_height / height - other_width) <= 2


def _only(objects: Objects) -> Objects:
    """The objects whose boxes are in the photo, and their polygons."""
    keep = boxes.valid(objects.boxes)
    points, num_points, owners = objects.polygons
    kept = keep[owners]
    polygons = Polygons(points[np.repeat(kept, num_points)], num_points[kept], (np.cumsum(keep) - 1)[owners[kept]])
    return Objects(objects.boxes[keep], objects.labels[keep], objects.is_crowd[keep], polygons)


def read_json(path: Path | str) -> dict:
    """The contents of a COCO json; raises UserError where the file is missing or no such json."""
    try:
        contents = json.loads(Path(path).read_bytes())
        {image["id"]: image["file_name"] for image in contents["images"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_coco(path, error) from error
    return contents


def find_annotations(contents: dict, path: Path | str, image_ids: Sequence[str]) -> dict[str, Annotations]:
    """The annotations of a COCO json by image id; photos that it does not name are left out.

    A photo is matched by its id, else by its base name where only one photo and one entry have it. In a json without
    annotations (COCO's image_info files), each named photo has no objects.

    Raises UserError: it is not COCO's, or names none of the photos.
    """
    try:
        by_entry: dict[int, list[dict]] = {}
        for annotation in contents.get("annotations", ()):
            if np.isfinite(annotation["bbox"]).all():
                by_entry.setdefault(annotation["image_id"], []).append(annotation)
        entries = {entry["file_name"]: entry for entry in contents["images"]}
        matches = match(entries, image_ids)
        by_id = {
            image_id: _annotations(entries[name], by_entry.get(entries[name]["id"], ()))
            for image_id, name in matches.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise _not_coco(path, error) from error
    if not by_id:
        raise UserError(
            f"--annotations={path} names none of the {len(image_ids)} photos (such as {image_ids[0]}): "
            "give the json that belongs to --images"
        )
    return by_id


def _not_coco(path: Path | str, error: Exception) -> UserError:
    return UserError(
        f"--annotations={path} cannot be read as COCO instances json ({type(error).__name__}: {error}): it needs "
        "images [id, file_name, height, width] and annotations [image_id, category_id, bbox, iscrowd]"
    )


def _annotations(entry: dict, annotations: Sequence[dict]) -> Annotations:
    polygons = []
    for owner, annotation in enumerate(annotations):
        outline = annotation.get("segmentation") or ()
        if not isinstance(outline, dict):  # a dict is a mask in run lengths, of a crowd
            polygons += [(owner, np.array(flat, np.float32).reshape(-1, 2)) for flat in outline]
    return Annotations(
        np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4),
        np.array([a["category_id"] for a in annotations], np.int64),
        int(entry.get("height") or 0),
        int(entry.get("width") or 0),
        np.array([a.get("iscrowd", 0) for a in annotations], bool),
        Polygons(
            np.concatenate([np.zeros([0, 2], np.float32), *(points for _, points in polygons)]),
            np.array([len(points) for _, points in polygons], np.int64),
            np.array([owner for owner, _ in polygons], np.int64),
        ),
    )


def match(names: Iterable[str], image_ids: Sequence[str]) -> dict[str, str]:
    """The name that belongs to each image id: the same path, else the same base name where it is unique."""
    names = set(names)
    by_base, ids_by_base = _unique_by_base(names), _unique_by_base(image_ids)
    matches = {}
    for image_id in image_ids:
        base = image_id.rsplit("/", 1)[-1]
        name = image_id if image_id in names else by_base.get(base) if base in ids_by_base else None
        if name is not None:
            matches[image_id] = name
    return matches


def _unique_by_base(names: Iterable[str]) -> dict[str, str]:
    """Names by their base name, without base names that several have."""
    by_base: dict[str, str | None] = {}
    for name in names:
        base = name.rsplit("/", 1)[-1]
        by_base[base] = None if base in by_base else name
    return {base: name for base, name in by_base.items() if name is not None}
