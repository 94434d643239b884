"""`batch(step)` is a pure function: hosts, threads and the step it starts from do not enter."""

import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.small import BATCH, prepare_photos, small_config, write_photos
from univip_jax.common.errors import TransientError, UserError
from univip_jax.config import to_spec
from univip_jax.data import pipeline
from univip_jax.data.index import Index, locate
from univip_jax.data.pipeline import choose_views, make_batches, preview
from univip_jax.data.records import open_dataset
from univip_jax.views import ViewSpec

STEPS = 5  # over the end of the first epoch, which has 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipeline")
    write_photos(root / "photos", 24)
    return open_dataset(prepare_photos(root / "photos", root / "prepared"))


@pytest.fixture(scope="module")
def spec(dataset):
    return to_spec(ViewSpec, small_config(dataset.root), "views")


def batches(dataset, spec, **options):
    index = Index(dataset, seed=3, batch_size=BATCH)
    return list(itertools.islice(make_batches(dataset, index, spec, **options), STEPS))


@pytest.fixture(scope="module")
def expected(dataset, spec):
    return batches(dataset, spec, num_threads=1)


def test_batches_have_their_shapes_and_differ(expected, spec):
    for batch in expected:
        assert batch.scenes.shape == (BATCH, 2, spec.scene_size, spec.scene_size, 3)
        assert batch.instances.shape == (BATCH, 4, spec.instance_size, spec.instance_size, 3)
        assert batch.scenes.dtype == batch.instances.dtype == np.uint8
        assert batch.scenes.std() > 10
    assert not np.array_equal(expected[0].scenes, expected[3].scenes)


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_batches_of_several_hosts_equal_one_hosts(dataset, spec, expected, num_hosts):
    per = BATCH // num_hosts
    parts = [
        batches(dataset, spec, rows=np.arange(host * per, (host + 1) * per), num_threads=1 + host)
        for host in range(num_hosts)
    ]
    for step, batch in enumerate(expected):
        np.testing.assert_array_equal(batch.scenes, np.concatenate([part[step].scenes for part in parts]))
        np.testing.assert_array_equal(batch.instances, np.concatenate([part[step].instances for part in parts]))


def test_batches_of_scattered_rows_equal_those_rows(dataset, spec, expected):
    rows = np.array([6, 1, 3])
    for batch, part in zip(expected, batches(dataset, spec, rows=rows), strict=True):
        np.testing.assert_array_equal(batch.scenes[rows], part.scenes)


def test_batches_from_a_later_start_are_the_same(dataset, spec, expected):
    later = batches(dataset, spec, start=2, stop=STEPS, num_threads=2)
    assert len(later) == STEPS - 2
    for batch, same in zip(expected[2:], later, strict=True):
        np.testing.assert_array_equal(batch.scenes, same.scenes)


def test_preview_equals_the_training_batch(dataset, spec, expected):
    photos = preview(dataset, Index(dataset, seed=3, batch_size=BATCH), spec, step=1, count=2)
    for row, photo in enumerate(photos):
        np.testing.assert_array_equal(photo.views.scenes, expected[1].scenes[row])
        np.testing.assert_array_equal(photo.views.instances, expected[1].instances[row])
        boxes, region = photo.geometry.instances, photo.geometry.region
        assert (boxes[:, :2] >= region[:2] - 1e-5).all()
        assert (boxes[:, 2:] <= region[2:] + 1e-5).all()


@pytest.mark.parametrize("place", ["length", "payload", "cut"])
def test_damaged_record_is_named_at_its_own_batch(dataset, spec, expected, tmp_path, place):
    copy = tmp_path / "copy"
    shutil.copytree(dataset.root, copy)
    broken = open_dataset(copy)
    index = Index(broken, seed=3, batch_size=BATCH)
    records, place = index.rows(1).records, locate(broken)
    shards, offsets = place.shards[records], place.offsets[records]
    path, offset = broken.shards[shards[5]].path, offsets[5]
    data = bytearray(path.read_bytes())
    if place == "cut":
        last = np.flatnonzero(offsets == offsets[shards == shards[5]].max())[0]
        offset, records = offsets[last], records[[last] * BATCH]
        del data[offset + 40 :]
    else:
        data[offset + (0 if place == "length" else 40)] ^= 1
    path.write_bytes(data)
    found = make_batches(broken, index, spec, num_threads=2)
    if place != "cut":  # that may cut records of the first batch too
        np.testing.assert_array_equal(next(found).scenes, expected[0].scenes)
    with pytest.raises(
        UserError, match=rf"of the 8 photos of step \d are damaged: record .* of {path}.*--check={copy}"
    ) as error:
        list(itertools.islice(found, 2))
    assert not isinstance(error.value, TransientError)
    if place != "cut":
        assert f"1 of the 8 photos of step 1 are damaged: record {records[5]}, at byte {offset} of" in str(error.value)


def test_record_that_reads_again_raises_a_transient_error(dataset, spec, monkeypatch):
    """The disk fails while the pipeline reads, and no more when the records are looked at."""
    real, calls = pipeline.crop, []

    def fail(*arguments):
        calls.append(arguments)
        with tf.control_dependencies([tf.debugging.Assert(False, ["the disk sleeps"])]):
            return real(*arguments)

    monkeypatch.setattr(pipeline, "crop", fail)
    with pytest.raises(TransientError, match="step 0 could not be read, but its records can be read again"):
        batches(dataset, spec)
    assert calls


def test_annotated_proposals_leave_out_crowds(dataset):
    spec = to_spec(ViewSpec, small_config(dataset.root, "table8=annotated"), "views")
    boxes = np.float32([[0.1, 0.1, 0.9, 0.9], [0, 0, 1, 1], [0.2, 0.2, 0.8, 0.8]])
    record = {"height": 100, "width": 120, "objects": boxes, "is_crowd": tf.constant([False, True, False])}
    assert spec.proposals == "annotated"
    np.testing.assert_array_equal(choose_views(record, tf.constant([0, 0], tf.int64), spec).proposals, boxes[[0, 2]])
