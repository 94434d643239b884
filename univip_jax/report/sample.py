"""The photos that a page shows: evenly spread over a run's data set, cut for its network and for people."""

from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from univip_jax.common.errors import UserError
from univip_jax.crops import choose_views, iou
from univip_jax.cut import views_key
from univip_jax.data.fit import decode_within
from univip_jax.data.host import tf
from univip_jax.data.index import evenly_spread, locate
from univip_jax.data.records import Dataset, parse, read_record
from univip_jax.views import ViewSpec

THUMB = 112  # px
_MOST_INSTANCES = 4  # of a photo
_CANVAS = 640  # px, of runs that are older than the field


class Photo(NamedTuple):
    """A photo of the data set as training decodes it."""

    name: str  # its path in the folder that was prepared
    pixels: UInt8[np.ndarray, "h w 3"]
    size: tuple[int, int]  # height and width as stored, px
    boxes: Float[np.ndarray, "n 4"]  # yxyx in [0, 1]: proposals, or objects where training takes those

    def square(self) -> Float[np.ndarray, " 4"]:
        """The largest central square, yxyx in [0, 1]."""
        half = min(self.pixels.shape[:2]) / np.array(self.pixels.shape[:2]) / 2
        return np.concatenate([0.5 - half, 0.5 + half])

    def cut(self, box: Float[np.ndarray, " 4"], side: int, interpolation: str) -> UInt8[np.ndarray, "side side 3"]:
        """The crop of a box, anti-aliased."""
        y0, x0, y1, x1 = (box * np.tile(self.pixels.shape[:2], 2)).tolist()
        method = Image.Resampling[interpolation.upper()]
        return np.asarray(Image.fromarray(self.pixels).resize((side, side), method, (x0, y0, x1, y1)))


class Sample(NamedTuple):
    """n photos and the m instances in them: `scenes` and `instances` for the network, thumbnails for people."""

    records: Int[np.ndarray, " n"]  # positions in the data set
    names: list[str]
    scenes: UInt8[np.ndarray, "n S S 3"]  # central squares
    instances: UInt8[np.ndarray, "m I I 3"]
    owners: Int[np.ndarray, " m"]  # the instance's photo, a position in the sample
    scene_thumbs: UInt8[np.ndarray, "n T T 3"]
    instance_thumbs: UInt8[np.ndarray, "m T T 3"]
    overlap: float  # mean IoU of the two scenes that training drew of these photos in its first epoch


def read_photo(dataset: Dataset, record: int, views: ViewSpec) -> Photo:
    """The photo at a position of the data set. Raises UserError where it is damaged."""
    place = locate(dataset)
    path, offset = str(dataset.shards[place.shards[record]].path), place.offsets[record]
    try:
        parsed = parse(read_record(path, offset))
        size = tf.stack([parsed["height"], parsed["width"]])
        pixels = decode_within(parsed["encoded"], size, views.canvas or _CANVAS).numpy()
    except tf.errors.OpError as error:
        raise UserError(f"record {record}, at byte {offset} of {path}, is damaged: {error.message}") from error
    parsed = {name: value.numpy() for name, value in parsed.items()}
    boxes = parsed["objects"][~parsed["is_crowd"]] if views.proposals == "annotated" else parsed["proposals"]
    return Photo(parsed["id"].decode(errors="replace"), pixels, tuple(size.numpy().tolist()), boxes)


def read_sample(dataset: Dataset, views: ViewSpec, seed: int, count: int) -> Sample:
    """`count` photos, or all where there are fewer, and of each at most 4 boxes, evenly spread over its list.

    Raises UserError where a photo is damaged.
    """
    records = evenly_spread(dataset.num_records, count)
    names, sizes, boxes, owners = [], [], [], []
    cut = {"scenes": [], "instances": [], "scene_thumbs": [], "instance_thumbs": []}

    def add(kind: str, photo: Photo, box: np.ndarray, side: int) -> None:
        cut[f"{kind}s"].append(photo.cut(box, side, views.interpolation))
        cut[f"{kind}_thumbs"].append(photo.cut(box, THUMB, "bicubic"))

    for place, record in enumerate(records):
        photo = read_photo(dataset, record, views)
        add("scene", photo, photo.square(), views.scene_size)
        for box in photo.boxes[evenly_spread(len(photo.boxes), _MOST_INSTANCES)]:
            add("instance", photo, box, views.instance_size)
            owners.append(place)
        names.append(photo.name)
        sizes.append(photo.size)
        boxes.append(photo.boxes)
    sides = {"scenes": views.scene_size, "instances": views.instance_size}
    pixels = {
        kind: np.array(crops, np.uint8).reshape(-1, *2 * [sides.get(kind, THUMB)], 3) for kind, crops in cut.items()
    }
    overlap = _overlap(records, sizes, boxes, views, seed)
    return Sample(records, names, owners=np.array(owners, int), overlap=overlap, **pixels)


def _overlap(records: np.ndarray, sizes: list, boxes: list[np.ndarray], views: ViewSpec, seed: int) -> float:
    """Mean IoU of the two scenes of each photo's first draw."""
    views, most = replace(views, num_instances=0), max(1, *map(len, boxes))
    padded = np.stack([np.pad(some, [(0, most - len(some)), (0, 0)]) for some in boxes])

    def scenes(record: jax.Array, proposals: jax.Array, size: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(views_key(seed), 0), record)  # as `cut_views` does
        return choose_views(key, proposals, size, views).scenes

    drawn = jax.jit(jax.vmap(scenes))(records, padded, np.array(sizes, np.float32))
    return float(iou(drawn[:, 0], drawn[:, 1]).mean())
