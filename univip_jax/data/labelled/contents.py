"""The bytes of labelled photos, which tell copies."""

import hashlib
import os
from typing import NamedTuple

import numpy as np

from univip_jax.data.host import tf
from univip_jax.data.labelled.sets import Labelled, as_numpy
from univip_jax.data.photos.listing import as_text


class Contents(NamedTuple):
    """All photos of a set, in its order."""

    names: list[str]  # paths, or `photo 7`
    digests: list[bytes]  # sha256 of the bytes
    labels: np.ndarray


def read_contents(labelled: Labelled) -> Contents:
    """Reads the bytes of all photos. Raises UserError that names those that cannot be read."""

    def load(example: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return "" if labelled.is_encoded else example, labelled.read(example), label

    photos = labelled.examples.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    names, digests, labels = [], [], []
    for place, (path, encoded, label) in enumerate(as_numpy(labelled, photos)):
        names.append(as_text(os.fsdecode(path)) or f"photo {place}")
        digests.append(hashlib.sha256(encoded).digest())
        labels.append(label)
    return Contents(names, digests, np.array(labels))
