"""Batches of painted records: where objects lie, what is left out, and that a step's batch is always the same."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from univip_jax.data.annotated import InJson, Polygons
from univip_jax.data.detection.canvas import InputSpec, canvas_of, canvases
from univip_jax.data.detection.index import CanvasIndex
from univip_jax.data.detection.pipeline import make_batches
from univip_jax.data.records import Record, fingerprint, open_dataset, serialize
from univip_jax.data.tfrecord import write_shard

SPEC = InputSpec(
    short_sides=(32, 48), test_short_side=48, max_side=96, canvases=((48, 72), (48, 96)), max_objects=3, mask_cells=16
)
CATEGORIES = (9, 2)  # class 0 has id 9
SIZES = [(40, 60), (60, 40), (40, 60), (60, 40), (40, 80), (80, 40), (40, 60), (60, 40)]
RED = (230, 30, 30)


def make_record(number: int, height: int, width: int) -> Record:
    """Grey, with a red triangle in its left part: corners at (10, 4), (30, 4), (30, 24) yx px."""
    y, x = np.mgrid[:height, :width] + 0.5
    pixels = np.full([height, width, 3], 100 + number, np.uint8)
    pixels[(y > 10) & (y < 30) & (x > 4) & (x - 4 < y - 10)] = RED
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    scale = np.array([height, width], np.float32)
    corners = np.array([[10, 4], [30, 4], [30, 24]], np.float32) / scale
    # Beside the triangle: a mask as run lengths, a crowd, one without width, one of a class that nobody asked for.
    boxes = np.array([[10, 4, 30, 24], [32, 2, 40, 10], [0, 0, 40, 40], [5, 5, 20, 5], [0, 0, 9, 9]], np.float32)
    filled = np.zeros([height, width], np.uint8, order="F")
    filled[32:40, 2:6] = 1  # the left half of its box
    return Record(
        buffer.getvalue(), f"{number}.png", height, width, np.zeros([0, 4], np.float32),
        boxes / np.tile(scale, 2), np.array([9, 2, 9, 9, 77]), np.array([False, False, True, False, False]),
        Polygons(corners, np.array([3]), np.array([0])),
        InJson(str(number), height, width, np.ones(5, np.float32), (b"", rle.encode(filled)["counts"], b"", b"", b"")),
    )  # fmt: skip


def write_set(root, records):
    """A data set of one shard."""
    path = root / "photos-00000-of-00001.tfrecord"
    offsets = write_shard(path, map(serialize, records))
    entry = {"num_records": len(records), "bytes": path.stat().st_size, "sha256": "0" * 64}
    path.with_suffix(".json").write_text(json.dumps({"version": 1, "offsets": offsets, **entry}))
    manifest = {
        "version": 1, "fingerprint": fingerprint([entry["sha256"]]), "num_records": len(records),
        "shards": [{"name": path.name, **entry}],
    }  # fmt: skip
    (root / "manifest.json").write_text(json.dumps(manifest))
    return open_dataset(root)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set"), [make_record(n, *size) for n, size in enumerate(SIZES)])


def batches(dataset, *, masks=True, spec=SPEC, seed=0, **where):
    index = CanvasIndex(canvas_of(np.array(SIZES), spec), np.arange(len(SIZES)), seed, batch_size=2)
    return list(make_batches(dataset, index, spec, CATEGORIES, masks=masks, num_threads=2, **where))


@pytest.fixture(scope="module")
def stream(dataset):
    """The batches of the first 12 steps."""
    return batches(dataset, stop=12)


def assert_equal(one, other):
    for name, a, b in zip(one._fields, one, other, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_a_resumed_stream_gives_the_same_bytes(dataset, stream):
    for step, batch in enumerate(batches(dataset, start=7, stop=12), start=7):
        assert_equal(batch, stream[step])
    assert not np.array_equal(batches(dataset, stop=1, seed=1)[0].images, stream[0].images)


def test_hosts_feed_their_rows(dataset, stream):
    for rows in ([0], [1], [1, 0]):
        for batch, whole in zip(batches(dataset, stop=4, rows=np.array(rows)), stream[:4], strict=True):
            assert_equal(batch, type(whole)(*(x[rows] for x in whole)))


def photos_of(stream):
    """Every photo of some batches, without the batch's axis."""
    for batch in stream:
        for row in range(len(batch.images)):
            yield type(batch)(*(x[row] for x in batch))


def test_photos_lie_on_their_canvas_in_a_drawn_size(stream):
    """At the upper left, nothing beside them; all sizes and both directions come."""
    seen = set()
    for photo in photos_of(stream):
        height, width = photo.sizes.astype(int)
        stored = SIZES[photo.photos]
        shapes = {short: tuple(int(n * short / min(stored) + 0.5) for n in stored) for short in SPEC.short_sides}
        assert (height, width) in shapes.values() and photo.images.shape[:2] in canvases(SPEC)
        assert (photo.images.shape[1] > photo.images.shape[0]) == (stored[1] > stored[0])
        assert photo.images[:height, :width].min() > 0
        assert not photo.images[height:].any() and not photo.images[:, width:].any()
        seen.add((min(height, width), width > height))
    assert len(seen) == 4


def test_objects_are_those_to_learn_the_largest_first(stream):
    """No crowd, none without area, none of another class; padding says so."""
    for photo in photos_of(stream):
        assert photo.exists.tolist() == [True, True, False] and photo.classes.tolist() == [0, 1, 0]
        assert not photo.boxes[2].any() and not photo.masks[2].any()


def test_boxes_and_masks_move_with_the_pixels(stream):
    """The red pixels lie where box and mask say, mirrored or not; the scale is the photo's."""
    mirrored = 0
    for photo in photos_of(stream):
        scale = photo.sizes[0] / SIZES[photo.photos][0]
        red = (photo.images[..., 0] > 165) & (photo.images[..., 1] < 66)
        rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
        box = photo.boxes[0]
        np.testing.assert_allclose(box, [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], atol=3)  # tips fade
        np.testing.assert_allclose(box[2:] - box[:2], 20 * scale, atol=0.5)
        flip = np.nonzero(red)[1].mean() > photo.sizes[1] / 2
        mirrored += flip
        bits = np.unpackbits(photo.masks, axis=-1)
        y, x = np.mgrid[:16, :16]
        lower = (x <= y)[:, :: -1 if flip else 1]
        assert (bits[0] != lower).sum() <= 16  # the diagonal's cells, by COCO's rule
        half = np.tile(np.arange(16) < 8, (16, 1))[:, :: -1 if flip else 1]
        np.testing.assert_array_equal(bits[1], half)
        centres = (np.argwhere(bits[0]) + 0.5) / 16 * (box[2:] - box[:2]) + box[:2]
        assert red[tuple(centres.astype(int).T)].mean() > 0.8
    assert 4 < mirrored < 20


def test_of_too_many_objects_the_largest_stay(dataset):
    small = replace(SPEC, max_objects=1, flip=False)
    (batch,) = batches(dataset, spec=small, stop=1)
    assert batch.exists.tolist() == [[True], [True]] and batch.classes.tolist() == [[0], [0]]
    left = [4 * size[1] / SIZES[photo][1] for size, photo in zip(batch.sizes, batch.photos, strict=True)]
    np.testing.assert_allclose(batch.boxes[:, 0, 1], left, rtol=1e-4)


def test_boxes_alone(dataset, stream):
    """The same batch without masks."""
    (batch,) = batches(dataset, masks=False, stop=1)
    assert batch.masks.shape == (2, 3, 0, 0)
    assert_equal(batch._replace(masks=stream[0].masks), stream[0])
