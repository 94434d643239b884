"""Annotated objects of one photo: boxes and outlines in the frame of the photo as stored."""

import hashlib
from typing import NamedTuple

import numpy as np

from data_prep import masks
from univip_jax.data import boxes
from univip_jax.data.annotated import InJson, Polygons
from univip_jax.data.photos.decode import Rejected, StoredPhoto
from univip_jax.data.photos.listing import Objects


class Annotations(NamedTuple):
    """One photo's annotations in a COCO json."""

    boxes_xywh_px: np.ndarray  # float64 [M, 4]
    labels: np.ndarray  # int64 [M], category ids
    height: int  # px, of the annotated photo; 0 where the json gives no size
    width: int  # px
    is_crowd: np.ndarray | None = None  # bool [M], a box around many things; None: no crowds
    polygons_xy_px: Polygons = Polygons()  # points float32 [P, 2] xy in px
    upright: bool = False  # boxes of this json mean the upright photo, though its sizes are those as encoded
    json_id: str = ""  # the image's id as JSON; empty: imported boxes
    areas: np.ndarray | None = None  # float64 [M], px^2; NaN where the json gives none. None: imported boxes
    masks: tuple[dict | None, ...] = ()  # [M], of the json's height and width, as `masks.read_mask` gives them


def in_photo(annotations: Annotations, stored: StoredPhoto) -> Objects:
    """The annotations in the frame of the stored photo, without boxes that lie outside it.

    A photo that its EXIF tag turns upright may have been annotated before or after the turn: the size in the json
    decides. Where it fits both (a square photo, half a turn), the json means the pixels as encoded, as COCO's does.
    Boxes that leave that size and fit it turned mean the other frame: Label Studio states the encoded size, and draws
    on the upright photo.

    Raises Rejected: the json gives another shape.
    """
    height, width = stored.pixels.shape[:2]
    encoded_height, encoded_width = (width, height) if stored.orientation >= 5 else (height, width)
    # A json that gives no size means the photo as encoded.
    of_height, of_width = annotations.height or stored.original_height, annotations.width or stored.original_width
    as_encoded = _same_shape(of_height, of_width, encoded_height, encoded_width)
    if not as_encoded and not _same_shape(of_height, of_width, height, width):
        raise Rejected(f"annotations are of another size: {of_width} x {of_height}, photo {width} x {height}")
    if stored.orientation >= 5 and _mean_other_frame(annotations, of_height, of_width, as_encoded):
        of_height, of_width, as_encoded = of_width, of_height, not as_encoded
    elif annotations.upright and stored.orientation < 5:  # mirrored or on its head: the size is that of both frames
        as_encoded = False
    is_crowd = annotations.is_crowd
    points = annotations.polygons_xy_px.points[:, ::-1] / np.array([of_height, of_width], np.float64)
    objects = Objects(
        boxes.from_xywh_px(annotations.boxes_xywh_px, of_height, of_width),
        annotations.labels,
        np.zeros([len(annotations.labels)], bool) if is_crowd is None else is_crowd,
        annotations.polygons_xy_px._replace(points=np.clip(points, 0, 1).astype(np.float32)),
    )
    orientation = stored.orientation if as_encoded else 1
    if annotations.json_id:
        areas = _areas(annotations, of_height, of_width)
        frame = (of_width, of_height) if orientation >= 5 else (of_height, of_width)
        # Masks are of the stated size: where the boxes mean the other frame, the masks still lie in the stated one.
        is_other = annotations.height not in (0, of_height)
        of_masks = stored.orientation if as_encoded != is_other else 1
        rle = tuple(masks.turned(mask, of_masks)["counts"] if mask else b"" for mask in annotations.masks)
        objects = objects._replace(in_json=InJson(annotations.json_id, *frame, areas, rle))
    return turned(objects, orientation)


def _areas(annotations: Annotations, height: int, width: int) -> np.ndarray:
    """Float32 [M], px^2: of the json, else of the mask, else of the box in the frame."""
    points, num_points, owners = annotations.polygons_xy_px
    polygons = np.split(points, np.cumsum(num_points)[:-1])
    areas = annotations.areas.copy()
    for place in np.flatnonzero(np.isnan(areas)):
        if mask := annotations.masks[place]:
            areas[place] = masks.area(mask)
        elif (mine := owners == place).any():
            areas[place] = masks.area_of_polygons([polygons[one] for one in np.flatnonzero(mine)], height, width)
        if not areas[place] > 0:
            x, y, box_width, box_height = annotations.boxes_xywh_px[place]
            inside = np.clip([[x, y], [x + box_width, y + box_height]], 0, [width, height])
            areas[place] = np.prod(inside[1] - inside[0])
    return areas.astype(np.float32)


def fingerprint(annotations: Annotations) -> bytes:
    """Equal for equal annotations, as the bytes of a digest."""
    digest = hashlib.sha256(f"{annotations.height} {annotations.width}".encode())
    crowds = annotations.is_crowd
    for values in (annotations.boxes_xywh_px, annotations.labels, crowds, *annotations.polygons_xy_px):
        digest.update(b"|" + (b"" if values is None else values.tobytes()))
    if annotations.upright:
        digest.update(b"|upright")
    if annotations.json_id:
        digest.update(f"|{annotations.json_id}|".encode() + annotations.areas.tobytes())
        digest.update(repr(annotations.masks).encode())
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


def leave(boxes_xywh_px: np.ndarray, height: np.ndarray | int, width: np.ndarray | int) -> np.ndarray:
    """Bool [M]: boxes that end outside of height x width, by more than careless drawing explains."""
    x, y, box_width, box_height = np.moveaxis(boxes_xywh_px, -1, 0)
    return (x + box_width > 1.02 * width + 2) | (y + box_height > 1.02 * height + 2)


def _mean_other_frame(annotations: Annotations, height: int, width: int, as_encoded: bool) -> bool:
    """Whether the boxes of a photo on its side fit its size turned, and leave it as stated or come from such a json."""
    given = annotations.boxes_xywh_px
    turned_fits = not leave(given, width, height).any()
    return turned_fits and bool(leave(given, height, width).any() or (annotations.upright and as_encoded))


def _same_shape(height: int, width: int, other_height: int, other_width: int) -> bool:
    # A smaller copy of the annotated photo fits, a turned or cropped one does not. The sides of a copy are rounded: a
    # pixel of either changes the product by a side of the other picture.
    return abs(width * other_height - other_width * height) <= max(height + width, other_height + other_width)


def _only(objects: Objects) -> Objects:
    """The objects whose boxes are in the photo, and their polygons."""
    keep = boxes.valid(objects.boxes)
    points, num_points, owners = objects.polygons
    kept = keep[owners]
    polygons = Polygons(points[np.repeat(kept, num_points)], num_points[kept], (np.cumsum(keep) - 1)[owners[kept]])
    in_json = objects.in_json
    if in_json is not None:
        rle = tuple(one for one, kept in zip(in_json.rle, keep, strict=True) if kept)
        in_json = in_json._replace(areas=in_json.areas[keep], rle=rle)
    return Objects(objects.boxes[keep], objects.labels[keep], objects.is_crowd[keep], polygons, in_json)
