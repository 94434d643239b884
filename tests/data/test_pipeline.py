"""`batch(step)` is a pure function: hosts, threads and the step it starts from do not enter."""

import itertools
import re
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
import tensorflow as tf

from tests.small import BATCH, prepare_photos, small_config, write_photos
from univip_jax.common.errors import TransientError, UserError
from univip_jax.config import to_spec
from univip_jax.cut import compile_cut, shapes_of
from univip_jax.data import pipeline
from univip_jax.data.index import Index, locate
from univip_jax.data.pipeline import Canvas, canvas_of, load_photo, make_batches, preview, show
from univip_jax.data.records import Record, open_dataset, serialize
from univip_jax.sharding import make_mesh, put_batch
from univip_jax.types import Photos
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


def test_batches_are_photos_on_a_canvas_and_differ(expected, dataset, spec):
    canvas = canvas_of(dataset, spec)
    for batch in expected:
        assert batch.pixels.shape == (BATCH, canvas.height, 3 * canvas.width) and batch.pixels.dtype == np.uint8
        assert batch.proposals.shape == (BATCH, canvas.num_proposals, 4)
        for photo in map(Photos._make, zip(*batch, strict=True)):
            height, width = photo.extent
            np.testing.assert_array_equal(photo.size, photo.extent)
            pixels = photo.pixels.reshape(canvas.height, canvas.width, 3)
            assert pixels[:height, :width].std() > 10 and not pixels[height:].any() and not pixels[:, width:].any()
    np.testing.assert_array_equal(np.unique(np.concatenate([b.draw[:, 1] for b in expected[:3]])), range(24))
    assert {int(epoch) for b in expected for epoch in b.draw[:, 0]} == {0, 1}


def test_the_canvas_is_the_least_that_holds_all_photos(dataset, spec):
    """Painted photos are 96 to 159 px a side, and their canvas a multiple of 16."""
    heights, widths = ([n for shard in dataset.shards for n in shard.photos[side]] for side in ("height", "width"))
    canvas = canvas_of(dataset, spec)
    assert canvas[:2] == (-(-max(heights) // 16) * 16, -(-max(widths) // 16) * 16) and canvas.num_shrunk == 0
    assert canvas.num_proposals == dataset.manifest["proposals"]["max"]
    small = canvas_of(dataset, replace(spec, canvas=100))
    assert small[:2] == (100, 100) and small.num_shrunk == sum(max(s) > 100 for s in zip(heights, widths, strict=True))
    unknown = dataset._replace(shards=tuple(shard._replace(photos={}) for shard in dataset.shards))
    assert canvas_of(unknown, spec)[:2] == (640, 640)  # an older sidecar does not tell
    with pytest.raises(UserError, match="canvas=0: the views of this run were cut on the host"):
        canvas_of(dataset, replace(spec, canvas=0))
    with pytest.raises(UserError, match="does not say how many objects its photos have: prepare it again"):
        canvas_of(unknown, replace(spec, proposals="annotated"))


def test_photos_larger_than_the_canvas_keep_their_views(dataset, spec, expected):
    """Shrunk on the host: the boxes are the same, and so are the views but for what shrinking takes."""
    (whole, *_), (small, *_) = expected, batches(dataset, replace(spec, canvas=100))
    assert (small.extent.max(1) == 100).any() and small.pixels.shape == (BATCH, 100, 300)
    np.testing.assert_array_equal(small.size, whole.size)
    views = [show(photos, spec, seed=3) for photos in (whole, small)]
    for one, other in zip(*views, strict=True):
        np.testing.assert_array_equal(one.geometry.instances, other.geometry.instances)
        difference = np.abs(one.views.scenes.astype(int) - other.views.scenes)
        assert difference.mean() < 4 < one.views.scenes.std()


def assert_equal_rows(batch, rows, part):
    for one, other in zip(batch, part, strict=True):
        np.testing.assert_array_equal(one[rows], other)


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_batches_of_several_hosts_equal_one_hosts(dataset, spec, expected, num_hosts):
    per = BATCH // num_hosts
    for host in range(num_hosts):
        rows = np.arange(host * per, (host + 1) * per)
        for batch, part in zip(expected, batches(dataset, spec, rows=rows, num_threads=1 + host), strict=True):
            assert_equal_rows(batch, rows, part)


def test_batches_of_scattered_rows_equal_those_rows(dataset, spec, expected):
    rows = np.array([6, 1, 3])
    for batch, part in zip(expected, batches(dataset, spec, rows=rows), strict=True):
        assert_equal_rows(batch, rows, part)


def test_batches_from_a_later_start_are_the_same(dataset, spec, expected):
    later = batches(dataset, spec, start=2, stop=STEPS, num_threads=2)
    assert len(later) == STEPS - 2
    for batch, same in zip(expected[2:], later, strict=True):
        assert_equal_rows(batch, slice(None), same)


def test_devices_cut_what_the_preview_shows_and_talk_to_nobody(dataset, spec, expected):
    """A batch over four devices against the same photos on one; views differ by epoch."""
    photos, mesh = expected[1], make_mesh()
    cut = compile_cut(spec, 3, shapes_of(photos), mesh)
    assert not re.search("all-reduce|all-gather|all-to-all|collective", cut.as_text())
    views, geometry = jax.device_get(cut(put_batch(mesh, photos)))
    found = preview(dataset, Index(dataset, seed=3, batch_size=BATCH), spec, step=1, count=2)
    for row, photo in enumerate(found):
        np.testing.assert_array_equal(photo.views.scenes, views.scenes[row])
        np.testing.assert_array_equal(photo.views.instances, views.instances[row])
        np.testing.assert_array_equal(photo.geometry.scenes, geometry.scenes[row])
        boxes, region = photo.geometry.instances, photo.geometry.region
        assert (boxes[:, :2] >= region[:2] - 1e-5).all() and (boxes[:, 2:] <= region[2:] + 1e-5).all()
    later = photos._replace(draw=photos.draw + np.int32([1, 0]))
    assert (jax.device_get(cut(put_batch(mesh, later)))[1].scenes != geometry.scenes).any((1, 2)).all()


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
        assert_equal_rows(expected[0], slice(None), next(found))
    with pytest.raises(
        UserError, match=rf"of the 8 photos of step \d are damaged: record .* of {path}.*--check={copy}"
    ) as error:
        list(itertools.islice(found, 2))
    assert not isinstance(error.value, TransientError)
    if place != "cut":
        assert f"1 of the 8 photos of step 1 are damaged: record {records[5]}, at byte {offset} of" in str(error.value)


def test_record_that_reads_again_raises_a_transient_error(dataset, spec, monkeypatch):
    """The disk fails while the pipeline reads, and no more when the records are looked at."""
    real, calls = pipeline.decode_within, []

    def fail(*arguments):
        calls.append(arguments)
        with tf.control_dependencies([tf.debugging.Assert(False, ["the disk sleeps"])]):
            return real(*arguments)

    monkeypatch.setattr(pipeline, "decode_within", fail)
    with pytest.raises(TransientError, match="step 0 could not be read, but its records can be read again"):
        batches(dataset, spec)
    assert calls


def test_annotated_proposals_leave_out_crowds(dataset, spec):
    boxes = np.float32([[0.1, 0.1, 0.9, 0.9], [0, 0, 1, 1], [0.2, 0.2, 0.8, 0.8]])
    encoded = tf.io.encode_png(np.zeros((10, 12, 3), np.uint8)).numpy()
    crowd = np.array([False, True, False])
    record = serialize(Record(encoded, "a", 10, 12, boxes[:1], boxes, np.arange(3), crowd))
    epoch, number = tf.constant(5, tf.int64), tf.constant(7, tf.int64)
    found = load_photo(record, number, epoch, Canvas(16, 16, 4, 0), replace(spec, proposals="annotated"))
    np.testing.assert_array_equal(found.proposals, [boxes[0], boxes[2], np.zeros(4), np.zeros(4)])
    assert found.draw.numpy().tolist() == [5, 7] and found.extent.numpy().tolist() == [10, 12]
