"""The annotations of a prepared test set as a COCO json, in the json's own frame, rebuilt from its records."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from univip_jax.common.errors import UserError
from univip_jax.data.detection.sets import DetectionSet
from univip_jax.data.host import tf
from univip_jax.data.ranges import source
from univip_jax.data.records import parse, read_annotations, read_polygons

_DIGITS = 3  # of pixels: float32 fractions give back a json's hundredths


class Truth(NamedTuple):
    """What is to be found in some photos of a set."""

    contents: dict[str, Any]  # of a COCO json; an object without an outline has no `segmentation`
    photos: Int[np.ndarray, " n"]  # position in the data set of each of its images


def read_truth(test: DetectionSet, num_photos: int = 0) -> Truth:
    """The truth of the first photos; `num_photos` 0: of all. Photos that no json names are left out.

    An image's id is the json's; its number here, from 1, where no json gave ids or two gave the same. Its frame is the
    json's size of the photo. Raises UserError: a record is damaged, or no json names any of the photos.
    """
    photos = np.arange(test.dataset.num_records)[: num_photos or None]
    records = list(_records(test, photos))
    named = np.array([bool(record["json_id"]) for record in records])
    if not named.any():
        raise UserError(
            f"no json names any of the first {len(photos)} photos of {test.dataset.root}, so nothing is known to be "
            "found there: judge all by --config.test.num_photos=0, or prepare the set with the json of its photos"
        )
    if not named.all():
        print(f"{test.dataset.root}: {(~named).sum()} photos that no json names are not judged", flush=True)
        photos, records = photos[named], [record for record in records if record["json_id"]]
    ids = image_ids([record["json_id"] for record in records])
    images, annotations = [], []
    for image_id, record in zip(ids, records, strict=True):
        height, width = (int(record[f"frame_{side}"] or record[side]) for side in ("height", "width"))
        name = record["id"].decode("utf-8", "replace")
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for one in _annotations(record, height, width):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id} | one)
    categories = [category._asdict() for category in test.categories]
    return Truth({"images": images, "annotations": annotations, "categories": categories}, photos)


def image_ids(json_ids: Sequence[bytes]) -> list[int | str]:
    """Ids from their JSON; numbers from 1 where one is missing or comes twice."""
    ids = [json.loads(given) for given in json_ids if given]
    if len(set(map(str, ids))) < len(json_ids):
        return list(range(1, len(json_ids) + 1))
    return ids


def _records(test: DetectionSet, photos: Int[np.ndarray, " n"]) -> Any:
    """What is annotated of each photo, as arrays."""
    found = source(test.dataset, lambda: iter([(photos,)]), [()])

    def load(place: Any, _: tf.Tensor) -> dict[str, tf.Tensor]:
        serialized = found.read(place)
        record = {name: value for name, value in parse(serialized).items() if name not in ("encoded", "proposals")}
        return record | read_annotations(serialized)._asdict() | read_polygons(serialized)._asdict() | {
            "boxes": record["objects"], "owners": read_polygons(serialized).objects,
        }  # fmt: skip

    try:
        yield from found.rows.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).as_numpy_iterator()
        if found.failed:
            raise found.failed[0]
    except tf.errors.OpError as error:
        raise UserError(
            f"{test.dataset.root}: a record does not read ({error.message.splitlines()[0]}): "
            f"python -m data_prep --check={test.dataset.root} names all"
        ) from error


def _annotations(record: dict[str, Any], height: int, width: int) -> list[dict[str, Any]]:
    """The objects of a photo without ids."""
    frame = np.array([height, width], np.float64)
    corners = np.split(record["points"] * frame, np.cumsum(record["num_points"])[:-1]) if len(record["points"]) else []
    found = []
    for number, box in enumerate(record["boxes"] * np.tile(frame, 2)):
        y0, x0, y1, x1 = box.tolist()
        one = {
            "category_id": int(record["labels"][number]),
            "bbox": [round(value, _DIGITS) for value in (x0, y0, x1 - x0, y1 - y0)],
            "area": float(record["areas"][number]) if len(record["areas"]) else (y1 - y0) * (x1 - x0),
            "iscrowd": int(record["is_crowd"][number]),
        }
        outlines = [polygon for polygon, owner in zip(corners, record["owners"], strict=True) if owner == number]
        if len(record["rle"]) and record["rle"][number]:
            one["segmentation"] = {"size": [height, width], "counts": record["rle"][number].decode("ascii")}
        elif outlines:
            one["segmentation"] = [np.round(polygon[:, ::-1], _DIGITS).ravel().tolist() for polygon in outlines]
        found.append(one)
    return found
