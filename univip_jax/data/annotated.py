"""What a record keeps of a photo's annotations beside its boxes: outlines, and the json's own facts.

Pre-training needs none of it, detection all: `records.parse` skips it, the functions here read it.
"""

from typing import NamedTuple

import numpy as np

from univip_jax.data.host import tf

# Features of the stored `tf.train.Example`, in the order of the tuples' fields.
POLYGONS = {
    "objects/polygons": tf.io.FixedLenSequenceFeature([2], tf.float32, allow_missing=True),
    "objects/polygons/num_points": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
    "objects/polygons/object": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
}
IN_JSON = {
    "image/json_id": tf.io.FixedLenFeature([], tf.string, default_value=""),
    "image/frame_height": tf.io.FixedLenFeature([], tf.int64, default_value=0),
    "image/frame_width": tf.io.FixedLenFeature([], tf.int64, default_value=0),
    "objects/area": tf.io.FixedLenSequenceFeature([], tf.float32, allow_missing=True),
    "objects/rle": tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True),
}


class Polygons(NamedTuple):
    """Outlines of annotated objects: Q polygons with P points together; an object may have several, or none."""

    points: np.ndarray = np.zeros([0, 2], np.float32)  # [P, 2] yx in [0, 1], polygon after polygon
    num_points: np.ndarray = np.zeros([0], np.int64)  # [Q]
    objects: np.ndarray = np.zeros([0], np.int64)  # [Q], the position of each polygon's object in `objects/yxyx`


class InJson(NamedTuple):
    """A photo in the annotations json that names it. Lengths are px of the frame: the json's size, turned upright."""

    json_id: str  # the image's id as JSON, as `139` or `"a7"`; its file name where it has no id
    frame_height: int  # the original photo's where the json gives no size
    frame_width: int
    areas: np.ndarray  # float32 [M], px^2: the json's, else the mask's, else the box's
    rle: tuple[bytes, ...]  # [M], COCO's compressed run lengths of a mask in the frame; empty: polygons, or no outline


def read_polygons(serialized: tf.Tensor) -> Polygons:
    """The polygons of one serialized record (string scalar) as tensors; none in records of earlier versions."""
    parsed = tf.io.parse_single_example(serialized, POLYGONS)
    return Polygons(*(parsed[name] for name in POLYGONS))


def read_annotations(serialized: tf.Tensor) -> InJson:
    """The json's facts of one serialized record (string scalar) as tensors, in graph too.

    `json_id` and `rle` [M] are bytes, the frame int64, `areas` float32 [M]. Where no json names the photo, and in
    records of earlier versions, all are empty or 0.
    """
    parsed = tf.io.parse_single_example(serialized, IN_JSON)
    return InJson(*(parsed[name] for name in IN_JSON))
