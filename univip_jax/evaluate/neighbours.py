"""The nearest neighbours of features and their vote: pure functions, without TensorFlow.

Of equally similar neighbours the earlier in the training set counts; of classes with equal votes the one with the lower
number wins.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from univip_jax.common.errors import UserError
from univip_jax.transport import normalize
from univip_jax.types import Features

# Features on the device at once: of 2048 numbers, 512 MiB of training photos and 8 MiB of test photos.
_TRAIN_ROWS = 65_536
_TEST_ROWS = 1024


class Neighbours(NamedTuple):
    """The nearest training photos of each test photo, the nearest first."""

    similarity: Float[np.ndarray, "M k"]
    index: Int[np.ndarray, "M k"]


@partial(jax.jit, static_argnames="k")
def _nearer(nearest: Neighbours, train, first, test, k: int) -> Neighbours:
    """The k nearest of the earlier ones and of `train`, the features from number `first` on."""
    similarity = jnp.matmul(normalize(test), normalize(train).T, precision=jax.lax.Precision.HIGHEST)
    index = jnp.broadcast_to(first + jnp.arange(len(train)), similarity.shape)
    # Of equals top_k takes the first: the earlier ones come first in the set too.
    similarity, place = jax.lax.top_k(jnp.concatenate([nearest.similarity, similarity], 1), k)
    return Neighbours(similarity, jnp.take_along_axis(jnp.concatenate([nearest.index, index], 1), place, 1))


def find_neighbours(train: Float[np.ndarray, "N F"], test: Float[np.ndarray, "M F"], k: int) -> Neighbours:
    """The k nearest by cosine similarity, in float32. `train` may be a mapped file: a part at a time is on the device.

    Raises UserError where there are fewer than k training features.
    """
    if not 1 <= k <= len(train):
        raise UserError(f"k={k} must be in 1..{len(train)}, the number of training photos")
    parts = [slice(start, start + _TEST_ROWS) for start in range(0, len(test), _TEST_ROWS)]
    none = Neighbours(np.full((len(test), k), -np.inf, np.float32), np.zeros((len(test), k), np.int32))
    nearest = [Neighbours(none.similarity[part], none.index[part]) for part in parts]
    starts = range(0, len(train), _TRAIN_ROWS)
    for start in tqdm(starts, unit="part", desc="neighbours", disable=len(starts) == 1):
        some = jnp.asarray(train[start : start + _TRAIN_ROWS])
        nearest = [_nearer(found, some, start, test[part], k) for found, part in zip(nearest, parts, strict=True)]
    return Neighbours(*(np.concatenate(column) for column in zip(*jax.device_get(nearest), strict=True)))


def vote(
    nearest: Neighbours, labels: Int[np.ndarray, " N"], *, temperature: float, num_classes: int
) -> Int[np.ndarray, " M"]:
    """The class of each test photo: each neighbour votes for its class with weight exp(similarity / temperature)."""
    # Relative to the nearest: exp(1 / 0.07) is far from overflow, but a smaller temperature is not.
    similarity = nearest.similarity.astype(np.float64)
    weights = np.exp((similarity - similarity[:, :1]) / temperature)
    votes = np.zeros((len(weights), num_classes))
    np.add.at(votes, (np.arange(len(weights))[:, None], labels[nearest.index]), weights)
    return votes.argmax(1)


def knn_top1(train: Features, test: Features, k: int, temperature: float) -> float:
    """Percent of the test features whose class the vote of their neighbours gives."""
    return top1_of_each(train, test, [k], temperature)[k]


def top1_of_each(train: Features, test: Features, ks: Sequence[int], temperature: float) -> dict[int, float]:
    """`knn_top1` for several k, from one search for neighbours."""
    nearest, classes = find_neighbours(train.features, test.features, max(ks)), int(train.labels.max()) + 1
    top1 = {}
    for k in ks:
        first = Neighbours(nearest.similarity[:, :k], nearest.index[:, :k])
        predicted = vote(first, train.labels, temperature=temperature, num_classes=classes)
        top1[k] = 100 * float(np.mean(predicted == test.labels))
    return top1
