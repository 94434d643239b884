"""`batch(step)` is a pure function: hosts, threads and the step it starts from do not enter."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.small import BATCH, prepare_photos, small_config, write_photos
from univip_jax.config import to_spec
from univip_jax.data.index import Index
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


def test_shapes_and_that_no_two_batches_are_equal(expected, spec):
    for batch in expected:
        assert batch.scenes.shape == (BATCH, 2, spec.scene_size, spec.scene_size, 3)
        assert batch.instances.shape == (BATCH, 4, spec.instance_size, spec.instance_size, 3)
        assert batch.scenes.dtype == batch.instances.dtype == np.uint8
        assert batch.scenes.std() > 10
    assert not np.array_equal(expected[0].scenes, expected[3].scenes)


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_hosts_together_make_the_same_batches(dataset, spec, expected, num_hosts):
    per = BATCH // num_hosts
    parts = [
        batches(dataset, spec, rows=np.arange(host * per, (host + 1) * per), num_threads=1 + host)
        for host in range(num_hosts)
    ]
    for step, batch in enumerate(expected):
        np.testing.assert_array_equal(batch.scenes, np.concatenate([part[step].scenes for part in parts]))
        np.testing.assert_array_equal(batch.instances, np.concatenate([part[step].instances for part in parts]))


def test_rows_need_not_be_a_block(dataset, spec, expected):
    rows = np.array([6, 1, 3])
    for batch, part in zip(expected, batches(dataset, spec, rows=rows), strict=True):
        np.testing.assert_array_equal(batch.scenes[rows], part.scenes)


def test_a_later_start_gives_the_same_batches(dataset, spec, expected):
    later = batches(dataset, spec, start=2, stop=STEPS, num_threads=2)
    assert len(later) == STEPS - 2
    for batch, same in zip(expected[2:], later, strict=True):
        np.testing.assert_array_equal(batch.scenes, same.scenes)


def test_the_preview_shows_what_training_sees(dataset, spec, expected):
    photos = preview(dataset, Index(dataset, seed=3, batch_size=BATCH), spec, step=1, count=2)
    for row, photo in enumerate(photos):
        np.testing.assert_array_equal(photo.views.scenes, expected[1].scenes[row])
        np.testing.assert_array_equal(photo.views.instances, expected[1].instances[row])
        boxes, region = photo.geometry.instances, photo.geometry.region
        assert (boxes[:, :2] >= region[:2] - 1e-5).all()
        assert (boxes[:, 2:] <= region[2:] + 1e-5).all()


def test_annotated_views_leave_crowds_out(dataset):
    spec = to_spec(ViewSpec, small_config(dataset.root, "table8=annotated"), "views")
    boxes = np.float32([[0.1, 0.1, 0.9, 0.9], [0, 0, 1, 1], [0.2, 0.2, 0.8, 0.8]])
    record = {"height": 100, "width": 120, "objects": boxes, "is_crowd": tf.constant([False, True, False])}
    assert spec.proposals == "annotated"
    np.testing.assert_array_equal(choose_views(record, tf.constant([0, 0], tf.int64), spec).proposals, boxes[[0, 2]])
