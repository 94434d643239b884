"""Outlines of annotated objects in a record. Training does not need them, and they are large: it skips over them."""

from typing import NamedTuple

import numpy as np

from univip_jax.data.host import tf

_FEATURES = {
    "objects/polygons": tf.io.FixedLenSequenceFeature([2], tf.float32, allow_missing=True),
    "objects/polygons/num_points": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
    "objects/polygons/object": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
}


class Polygons(NamedTuple):
    """Q polygons with P points together; an object may have several, or none."""

    points: np.ndarray = np.zeros([0, 2], np.float32)  # [P, 2] yx in [0, 1], polygon after polygon
    num_points: np.ndarray = np.zeros([0], np.int64)  # [Q]
    objects: np.ndarray = np.zeros([0], np.int64)  # [Q], the position of each polygon's object in `objects/yxyx`


def to_features(polygons: Polygons) -> dict[str, tf.train.Feature]:
    """What a record stores of them, by name."""
    points, *numbers = polygons
    values = [tf.train.Feature(float_list=tf.train.FloatList(value=np.asarray(points, np.float32).ravel()))]
    values += [tf.train.Feature(int64_list=tf.train.Int64List(value=number)) for number in numbers]
    return dict(zip(_FEATURES, values, strict=True))


def read_polygons(serialized: tf.Tensor) -> Polygons:
    """The polygons of one serialized record (string scalar) as tensors; none in records of earlier versions.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not a record.
    """
    parsed = tf.io.parse_single_example(serialized, _FEATURES)
    return Polygons(*(parsed[name] for name in _FEATURES))
