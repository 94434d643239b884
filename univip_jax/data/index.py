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
    shards: Int[np.ndarray, " B"]  # positions in `Dataset.shards`
    offsets: Int[np.ndarray, " B"]  # bytes


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
        self._shards = np.repeat(np.arange(len(dataset.shards)), [s.num_records for s in dataset.shards])
        self._offsets = np.concatenate([s.offsets for s in dataset.shards])

    def rows(self, step: int) -> Rows:
        """The global batch of `step`, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = permutation(self.num_records, self.seed, epoch)
        records = order[position * self.batch_size : (position + 1) * self.batch_size]
        return Rows(epoch, records, self._shards[records], self._offsets[records])
