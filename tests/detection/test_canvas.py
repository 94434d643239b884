"""Sizes of Detectron2's resizing, and the canvases that hold them."""

import numpy as np
import pytest
import tensorflow as tf

from univip_jax.common.errors import UserError
from univip_jax.data.detection.canvas import InputSpec, Size, canvas_of, canvases, resized
from univip_jax.data.detection.pipeline import fitted
from univip_jax.data.fit import onto, resize

SPEC = InputSpec()


def detectron2_size(h: int, w: int, short: int, longest: int) -> tuple[int, int]:
    """`ResizeShortestEdge.get_output_shape`."""
    scale = short / min(h, w)
    new_h, new_w = (short, scale * w) if h < w else (scale * h, short)
    if max(new_h, new_w) > longest:
        scale = longest / max(new_h, new_w)
        new_h, new_w = new_h * scale, new_w * scale
    return int(new_h + 0.5), int(new_w + 0.5)


@pytest.fixture(scope="module")
def sizes():
    """Photos of COCO's sizes and others, up to 10:1."""
    rng = np.random.default_rng(0)
    usual = [(480, 640), (427, 640), (640, 480), (500, 375), (640, 640), (333, 500), (1, 1), (2000, 200)]
    return np.array([*usual, *rng.integers(100, 1000, (300, 2)).tolist()])


def test_sizes_are_detectron2s(sizes):
    """In Python and in graph alike."""
    in_graph = tf.function(lambda h, w, s: fitted(h, w, s, 1333), input_signature=[tf.TensorSpec([], tf.int64)] * 3)
    for height, width in sizes.tolist():
        for short in (*SPEC.short_sides, SPEC.test_short_side)[::3]:
            size = resized(height, width, short, 1333)
            assert size == tuple(in_graph(height, width, short).numpy()) and max(size) <= 1333
            assert size == detectron2_size(height, width, short, 1333)


def test_a_canvas_holds_a_photo_in_every_size(sizes):
    """The smallest of its direction."""
    assert canvases(SPEC) == (Size(800, 1088), Size(1088, 800), Size(800, 1344), Size(1344, 800))
    for (height, width), place in zip(sizes.tolist(), canvas_of(sizes, SPEC).tolist(), strict=True):
        canvas = canvases(SPEC)[place]
        drawn = [detectron2_size(height, width, short, 1333) for short in SPEC.short_sides]
        assert all(h <= canvas.height and w <= canvas.width for h, w in drawn)
        assert (canvas.width > canvas.height) == (width >= height)
        assert (max(canvas) == 1088) == (max(max(size) for size in drawn) <= 1088)


def test_pixels_are_antialiased_and_lie_at_the_upper_left():
    """Within a grey level of Pillow, which Detectron2 resizes with; beyond the photo 0."""
    from PIL import Image

    rng = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((160, 120)))
    for size in ((50, 66), (180, 240)):
        found = onto(resize(tf.constant(smooth), tf.constant(size)), tf.constant([192, 256])).numpy()
        expected = np.asarray(Image.fromarray(smooth).resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
        assert found.dtype == np.uint8 and found.shape == (192, 256, 3)
        assert np.abs(found[: size[0], : size[1]] - expected).max() <= 1
        assert not found[size[0] :].any() and not found[:, size[1] :].any()


def test_what_no_canvas_holds_is_refused():
    with pytest.raises(UserError, match=r"none of at least 800 x 1333 px"):
        InputSpec(canvases=((800, 1088),))
    with pytest.raises(UserError, match=r"mask_cells=100 must be a multiple of 8"):
        InputSpec(mask_cells=100)
