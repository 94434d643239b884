"""The pixels of crops, against Pillow and by hand."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from univip_jax.data.labelled import crops
from univip_jax.views import INTERPOLATIONS


def photo(height: int, width: int) -> np.ndarray:
    """Smooth, so that resampling is compared and not the rounding of noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 12, width // 12, 3), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("box", "size"), [((0, 0, 1, 1), 24), ((0.25, 0.1, 0.85, 0.7), 24), ((0.1, 0.3, 0.2, 0.45), 32)]
)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_crop_agrees_with_pillow_away_from_the_border(box, size, interpolation):
    """Shrinking and enlarging; at the border ours sees beyond the box, Pillow's box does not."""
    image = photo(120, 160)
    y0, x0, y1, x1 = np.array(box) * [120, 160, 120, 160]
    expected = Image.fromarray(image).resize(
        (size, size), Image.Resampling[interpolation.upper()], box=(x0, y0, x1, y1)
    )
    found = crops.crop(tf.constant(image), tf.constant([box], tf.float32), size, interpolation).numpy()
    assert found.shape == (1, size, size, 3) and found.dtype == np.uint8
    edge = 4
    difference = np.abs(found[0].astype(int) - np.asarray(expected, int))[edge:-edge, edge:-edge]
    assert difference.max() <= 3 and difference.mean() < 0.6
    assert np.asarray(expected, int).std() > 10


def test_bicubic_is_keys_kernel_of_pillow_s_constant():
    """A step, enlarged 4 times: a = -0.5 overshoots it, a = -0.75 (OpenCV) would by more, bilinear does not."""
    step = np.full((16, 16, 3), 50, np.uint8)
    step[:, 8:] = 200
    pillow = np.asarray(Image.fromarray(step).resize((64, 64), Image.Resampling.BICUBIC))
    whole = tf.constant([[0.0, 0.0, 1.0, 1.0]])
    np.testing.assert_allclose(crops.crop(tf.constant(step), whole, 64, "bicubic").numpy()[0], pillow, atol=1)
    assert pillow.max() > 208 and crops.crop(tf.constant(step), whole, 64).numpy().max() == 200


def test_crop_of_a_checkerboard_is_anti_aliased_to_grey():
    """Pixels of 0 and 255 in turn, shrunk 8 times: plain bilinear sampling would give 0, 255 or stripes."""
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    found = crops.crop(tf.constant(np.stack([board] * 3, -1)), tf.constant([[0.0, 0.0, 1.0, 1.0]]), 16).numpy()
    np.testing.assert_allclose(found[0, 1:-1, 1:-1].astype(int), 128, atol=3)


def test_crop_at_the_size_of_its_box_copies_the_pixels():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    boxes = np.array([[10 / 40, 20 / 60, 26 / 40, 36 / 60], [0, 0, 16 / 40, 16 / 60]], np.float32)
    found = crops.crop(tf.constant(image), tf.constant(boxes), 16).numpy()
    np.testing.assert_allclose(found.astype(int), [image[10:26, 20:36], image[:16, :16]], atol=1)


def test_crop_of_no_boxes_is_empty():
    assert crops.crop(tf.zeros((5, 5, 3), tf.uint8), tf.zeros((0, 4)), 8).shape == (0, 8, 8, 3)
