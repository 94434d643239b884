"""The order of records: a permutation an epoch, whole batches, pinned for ever."""

from pathlib import Path

import numpy as np
import pytest

from univip_jax.common.errors import UserError
from univip_jax.data.index import Index, locate, permutation
from univip_jax.data.records import Dataset, Shard


def dataset(*sizes: int) -> Dataset:
    """Shards of those numbers of records; record r of shard s lies at byte 1000 s + 10 r."""
    shards = [Shard(Path(f"{s}"), n, 1000 * s + 10 * np.arange(n), {}) for s, n in enumerate(sizes)]
    return Dataset(Path("photos"), "fingerprint", sum(sizes), tuple(shards), {})


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_an_epoch_visits_each_record_once(size):
    np.testing.assert_array_equal(np.sort(permutation(size, 3, 4)), np.arange(size))


def test_permutation_sorts_philox_words():
    """NumPy's bit generator keyed by (seed, epoch), sorted by Python."""
    words = np.random.Philox(key=[3, 4]).random_raw(100).tolist()
    assert permutation(100, 3, 4).tolist() == sorted(range(100), key=lambda i: words[i])


def test_order_is_pinned():
    """A run that goes on under another version of NumPy must see the same photos: these never change."""
    assert permutation(8, 0, 0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert permutation(8, 7, 2).tolist() == [6, 7, 4, 0, 1, 5, 3, 2]


def test_order_differs_by_seed_and_epoch():
    orders = {tuple(permutation(50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_an_epoch_is_whole_batches_without_repetition():
    index = Index(dataset(4, 0, 7), seed=1, batch_size=3)
    assert index.steps_per_epoch == 3  # 11 records: 2 wait for another order
    for epoch in range(3):
        rows = [index.rows(epoch * 3 + step) for step in range(3)]
        assert [row.epoch for row in rows] == [epoch] * 3
        np.testing.assert_array_equal(np.concatenate([row.records for row in rows]), permutation(11, 1, epoch)[:9])


def test_records_are_found_in_their_shards():
    """Records 0..3 are shard 0, none are shard 1, 4..10 are shard 2."""
    place = locate(dataset(4, 0, 7))
    assert len(place.shards) == 11
    for record, (shard, offset) in enumerate(zip(*place, strict=True)):
        assert (shard, offset) == ((0, 10 * record) if record < 4 else (2, 2000 + 10 * (record - 4)))


def test_less_than_one_batch_is_refused():
    with pytest.raises(UserError, match="holds 5 photos, less than one batch of batch_size=6"):
        Index(dataset(2, 3), seed=0, batch_size=6)
    assert Index(dataset(2, 3), seed=0, batch_size=5).steps_per_epoch == 1
