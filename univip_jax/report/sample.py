"""The photos that a page shows: evenly spread over a run's data set, cut for its network and for people."""

from dataclasses import replace
from functools import partial
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
_MULTIPLE = 32  # of a photo's number of boxes
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
    pairs: UInt8[np.ndarray, "n 2 S S 3"]  # the two scenes that training drew in its first epoch
    instances: UInt8[np.ndarray, "m I I 3"]
    owners: Int[np.ndarray, " m"]  # the instance's photo, a position in the sample
    scene_thumbs: UInt8[np.ndarray, "n T T 3"]
    instance_thumbs: UInt8[np.ndarray, "m T T 3"]
    overlap: float  # mean IoU of the pairs


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
    records, names, owners, overlaps = evenly_spread(dataset.num_records, count), [], [], []
    cut = {"scenes": [], "pairs": [], "instances": [], "scene_thumbs": [], "instance_thumbs": []}
    for place, record in enumerate(records):
        photo = read_photo(dataset, record, views)
        names.append(photo.name)
        pair = _first_scenes(photo, record, views, seed)
        overlaps.append(float(iou(*pair)))
        cut["pairs"] += [photo.cut(box, views.scene_size, views.interpolation) for box in pair]
        boxes = photo.boxes[evenly_spread(len(photo.boxes), _MOST_INSTANCES)]
        owners += [place] * len(boxes)
        for kind, side, some in (
            ("scene", views.scene_size, [photo.square()]),
            ("instance", views.instance_size, boxes),
        ):
            cut[f"{kind}s"] += [photo.cut(box, side, views.interpolation) for box in some]
            cut[f"{kind}_thumbs"] += [photo.cut(box, THUMB, "bicubic") for box in some]
    cut = {kind: np.array(crops, np.uint8) for kind, crops in cut.items()}
    cut["pairs"] = cut["pairs"].reshape(len(records), 2, *cut["scenes"].shape[1:])
    return Sample(records, names, owners=np.array(owners, int), overlap=float(np.mean(overlaps)), **cut)


def _first_scenes(photo: Photo, record: int, views: ViewSpec, seed: int) -> Float[np.ndarray, "2 4"]:
    """As `cut_views` draws them in epoch 0. Padded boxes change nothing, and save programs."""
    padded = np.pad(photo.boxes, [(0, _MULTIPLE - len(photo.boxes) % _MULTIPLE), (0, 0)])
    return np.asarray(_draw_scenes(views_key(seed), record, padded, np.array(photo.size, np.float32), views))


@partial(jax.jit, static_argnames="views")
def _draw_scenes(key: jax.Array, record: int, boxes: jax.Array, size: jax.Array, views: ViewSpec) -> jax.Array:
    key = jax.random.fold_in(jax.random.fold_in(key, 0), record)
    return choose_views(key, boxes, size, replace(views, num_instances=0)).scenes
