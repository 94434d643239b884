"""Photos larger than a canvas, shrunk; all of them, padded."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from univip_jax.data.fit import decode_within, extents, onto


def smooth(height: int, width: int) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=95, subsampling=0)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("height", "width"), [(64, 48), (65, 48), (100, 160), (301, 128), (1000, 600)])
def test_a_larger_photo_is_shrunk_as_pillow_shrinks_it(kind, height, width):
    """To 64 px: as it is, at a half, a quarter and an eighth; PNG has no such ways."""
    encoded, side, size = encode(smooth(height, width), kind), 64, np.array([height, width])
    image = Image.open(io.BytesIO(encoded))
    found = decode_within(tf.constant(encoded), tf.constant(size), side).numpy()
    scale = min(1.0, side / max(height, width))
    expected = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    assert found.shape == (*expected, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(extents(size[None], side), [expected])
    pillow = np.asarray(image.resize(expected[::-1], Image.Resampling.BILINEAR), int)
    difference = np.abs(found - pillow)
    assert difference.mean() < 2.5 and np.percentile(difference, 99) < 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_thin_photo_keeps_a_row(kind):
    found = decode_within(tf.constant(encode(smooth(3, 600), kind)), tf.constant([3, 600], tf.int64), 64)
    assert found.shape == (1, 64, 3) and np.std(found) > 10


def test_a_photo_lies_at_the_upper_left_of_zeros():
    image = np.random.default_rng(0).integers(1, 256, (3, 5, 3), np.uint8)
    found = onto(tf.constant(image), tf.constant([4, 8])).numpy()
    np.testing.assert_array_equal(found[:3, :5], image)
    assert found.shape == (4, 8, 3) and not found[3].any() and not found[:, 5:].any()
