"""Records in a bucket: the same batches as from a disk, verified, from a cache too, whatever the network does."""

import itertools
import os
import time

import jax
import numpy as np
import pytest

from tests.small import BATCH, prepare_photos, small_config, write_photos
from univip_jax.common.errors import TransientError, UserError
from univip_jax.common.files import at
from univip_jax.config import to_spec
from univip_jax.data import ranges
from univip_jax.data.cache import ShardCache, with_cache
from univip_jax.data.index import Index
from univip_jax.data.pipeline import make_batches, photo_ids
from univip_jax.data.ranges import read_ahead
from univip_jax.data.records import open_dataset, read_record, read_shard
from univip_jax.views import ViewSpec

STEPS = 5


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("records")
    write_photos(root / "photos", 24)
    return prepare_photos(root / "photos", root / "prepared")


def put(folder, address):
    """Copies a data set into a bucket."""
    to = at(address)
    to.fs.put([str(path) for path in folder.iterdir()], [f"{address}/{path.name}" for path in folder.iterdir()])
    return address


def batches(dataset, **options):
    spec, index = to_spec(ViewSpec, small_config(dataset.root), "views"), Index(dataset, seed=3, batch_size=BATCH)
    return list(itertools.islice(make_batches(dataset, index, spec, num_threads=2, **options), STEPS))


def assert_same(found, wanted):
    assert len(found) == len(wanted) == STEPS
    for one, other in zip(found, wanted, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_batches_of_a_bucket_equal_those_of_a_disk(prepared, bucket):
    here, there = open_dataset(prepared), open_dataset(put(prepared, bucket))
    assert there.fingerprint == here.fingerprint and str(there.root) == bucket
    assert_same(batches(there), batches(here))
    start = 10**6
    for one, other in zip(*(itertools.islice(resumed(d, start), 2) for d in (there, here)), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    records = np.array([5, 23, 0])
    assert photo_ids(there, records) == photo_ids(here, records)
    shards = [[list(read_shard(shard)) for shard in dataset.shards] for dataset in (here, there)]
    assert shards[0] == shards[1]


def resumed(dataset, start):
    index = Index(dataset, seed=3, batch_size=BATCH)
    return make_batches(dataset, index, to_spec(ViewSpec, small_config(dataset.root), "views"), start=start)


def test_a_window_of_records_is_asked_for_ahead(prepared, gs, servers):
    dataset = open_dataset(put(prepared, gs))
    servers.gs.faults.latency = 0.05
    order = np.tile(np.arange(24), 4)
    took = {}
    for window in (1, 64):
        began = time.monotonic()
        found = [one for chunk, *_ in read_ahead(dataset, [(order,)], window) for one in chunk]
        took[window] = time.monotonic() - began
    assert len(found) == len(order)
    assert found[:24] == [one for shard in open_dataset(prepared).shards for one in read_shard(shard)]
    assert took[64] < took[1] / 3, took  # chunks of 16 one after the other, or all at once


def test_opening_costs_a_listing_and_requests_at_once(prepared, gs, servers):
    address = put(prepared, gs)
    before = servers.gs.faults.num_requests
    dataset = open_dataset(address)
    assert servers.gs.faults.num_requests - before <= 8 + len(dataset.shards)


def test_a_damaged_record_is_named(prepared, bucket):
    dataset = open_dataset(put(prepared, bucket))
    shard = dataset.shards[1]
    data = bytearray(shard.path.read_bytes())
    data[shard.offsets[2] + 40] ^= 1
    shard.path.fs.pipe_file(str(shard.path), bytes(data))
    with pytest.raises(
        UserError, match=rf"photos of step \d are damaged: record \d+, at byte .* of {bucket}/photos-00001"
    ):
        batches(dataset)
    with pytest.raises(Exception, match="is damaged: its checksum does not agree"):
        read_record(str(shard.path), int(shard.offsets[2]))


def test_a_shard_that_is_missing_or_cut_short_is_named(prepared, bucket):
    dataset = open_dataset(put(prepared, bucket))
    path = dataset.shards[0].path
    path.fs.pipe_file(str(path), path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"has \d+ bytes, should have"):
        open_dataset(bucket)
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        open_dataset(bucket)
    with pytest.raises(UserError, match=f"data set {bucket}/none: no such folder"):
        open_dataset(f"{bucket}/none")


def cached(address, folder, gigabytes=1.0):
    data = small_config(address).data
    data.cache, data.cache_gb = str(folder), gigabytes
    return with_cache(open_dataset(address), data)


def wait_for(dataset):
    for _ in range(200):
        if all(map(dataset.cache.has, range(len(dataset.shards)))):
            return
        time.sleep(0.05)
    raise AssertionError("the cache was not filled")


def settled(proxy):
    """The number of requests when no more come: an iterator that is left has some on the way."""
    before = -1
    while before != (before := proxy.faults.num_requests):
        time.sleep(0.5)
    return before


def test_a_cache_holds_whole_shards_and_then_asks_the_bucket_nothing(prepared, bucket, servers, tmp_path, capsys):
    wanted = batches(open_dataset(prepared))
    first = cached(put(prepared, bucket), tmp_path / "cache")
    assert_same(batches(first), wanted)
    wait_for(first)
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert names == {f"{entry['sha256']}.tfrecord" for entry in first.manifest["shards"]}
    again = cached(bucket, tmp_path / "cache")
    proxy = getattr(servers, bucket[:2])
    before = settled(proxy)
    assert_same(batches(again), wanted)
    assert proxy.faults.num_requests == before
    # A flipped bit on this disk is found, and the bucket's record is read.
    path = tmp_path / "cache" / f"{again.manifest['shards'][0]['sha256']}.tfrecord"
    data = bytearray(path.read_bytes())
    for offset in again.shards[0].offsets:
        data[offset + 40] ^= 1
    path.write_bytes(data)
    assert_same(batches(cached(bucket, tmp_path / "cache")), wanted)
    told = capsys.readouterr().err
    assert told.count(f"data.cache: {path} is damaged") == 1 and not path.exists()


def test_a_cache_stays_within_its_size_and_older_sets_make_room(prepared, gs, tmp_path, capsys):
    address, folder = put(prepared, gs), tmp_path / "cache"
    folder.mkdir()
    (folder / f"{'0' * 64}.tfrecord").write_bytes(bytes(10**5))
    sizes = [entry["bytes"] for entry in open_dataset(address).manifest["shards"]]
    dataset = cached(address, folder, (sum(sizes) - 1) / 1e9)
    assert_same(batches(dataset), batches(open_dataset(prepared)))
    dataset.cache._thread.join(20)
    assert sum(path.stat().st_size for path in folder.iterdir()) < sum(sizes)
    assert not (folder / f"{'0' * 64}.tfrecord").exists()
    assert "data.cache is full: 2 of 3 shards" in capsys.readouterr().out


def test_a_cache_that_cannot_be_used_is_named(prepared, gs, tmp_path, capsys):
    with pytest.raises(UserError, match=r"data.cache=gs://bucket/x must be a folder of this machine"):
        cached(put(prepared, gs), "gs://bucket/x")
    assert cached(prepared, tmp_path / "cache").cache is None
    assert "is on this machine already" in capsys.readouterr().out


def test_a_digest_that_leads_out_of_the_cache_is_refused(prepared, gs, tmp_path):
    dataset = open_dataset(put(prepared, gs))
    dataset.manifest["shards"][0]["sha256"] = "../x"
    with pytest.raises(UserError, match=f"{gs}: the manifest's sha256 of photos-00000-of-00003.tfrecord is none"):
        ShardCache(dataset, tmp_path, 1.0)


@pytest.mark.parametrize("kind", ["failing", "gone"])
def test_a_server_that_fails_now_and_then_changes_nothing(prepared, bucket, servers, kind):
    dataset = open_dataset(put(prepared, bucket))
    faults = getattr(servers, bucket[:2]).faults
    if kind == "failing":
        faults.failing = 0.1
    else:
        faults.gone_until = time.monotonic() + 3
    assert_same(batches(dataset), batches(open_dataset(prepared)))


def test_a_network_that_is_gone_is_no_damage(prepared, gs, servers, monkeypatch):
    dataset = open_dataset(put(prepared, gs))
    monkeypatch.setattr(
        "univip_jax.common.buckets.STORE_RETRIES", {"max_retries": 1, "initial_delay": "0.1s", "max_delay": "0.1s"}
    )
    servers.gs.faults.gone_until = time.monotonic() + 60
    with pytest.raises(TransientError, match=f"{gs} cannot be reached"):
        batches(dataset)
    assert ranges.WINDOW >= 64 and os.environ["EPATH_USE_TF"] == "false"
