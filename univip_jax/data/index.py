"""Which records make up the batch of a step: a pure function of (data set, seed, batch size, step)."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from univip_jax.common.errors import UserError
from univip_jax.data.records import Dataset


class Rows(NamedTuple):
    """The records of one global batch, in order."""

    epoch: int
    records: Int[np.ndarray, " B"]  # positions in the data set


class Places(NamedTuple):
    """Where each record of a data set lies."""

    shards: Int[np.ndarray, " N"]  # positions in `Dataset.shards`
    offsets: Int[np.ndarray, " N"]  # bytes


def locate(dataset: Dataset) -> Places:
    """The places of all records, in order."""
    shards = np.repeat(np.arange(len(dataset.shards)), [shard.num_records for shard in dataset.shards])
    return Places(shards, np.concatenate([shard.offsets for shard in dataset.shards]))


def evenly_spread(total: int, count: int) -> Int[np.ndarray, " n"]:
    """`count` positions of `total`, each in the middle of a part of its own; all where there are fewer."""
    count = min(count, total)
    return (2 * np.arange(count) + 1) * total // (2 * max(1, count))


@lru_cache(maxsize=2)
def permutation(num_records: int, seed: int, epoch: int) -> Int[np.ndarray, " N"]:
    """The order of an epoch.

    Sorted raw Philox words rather than `Generator.permutation`: NumPy promises the raw stream for ever, the shuffle
    not. Equal words (about n^2 / 2^65) keep their order because the sort is stable.
    """
    words = np.random.Philox(key=[seed, epoch]).random_raw(num_records)
    return np.argsort(words, kind="stable")


class Index:
    """Maps steps to records. An epoch is `num_records // batch_size` whole batches; the rest waits for another order.

    Raises UserError where the data set holds less than one batch.
    """

    def __init__(self, dataset: Dataset, seed: int, batch_size: int):
        if dataset.num_records < batch_size:
            raise UserError(
                f"{dataset.root} holds {dataset.num_records} photos, less than one batch of "
                f"batch_size={batch_size}: add photos, or lower it: "
                f"--config.batch_size={dataset.num_records}"
            )
        self.num_records = dataset.num_records
        self.seed, self.batch_size = seed, batch_size
        self.steps_per_epoch = dataset.num_records // batch_size

    def rows(self, step: int) -> Rows:
        """The global batch of `step`, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = permutation(self.num_records, self.seed, epoch)
        return Rows(epoch, order[position * self.batch_size : (position + 1) * self.batch_size])
