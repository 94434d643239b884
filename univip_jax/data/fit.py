"""Photos onto canvases: static shapes for photos of any size."""

import numpy as np
from jaxtyping import Int

from univip_jax.data.host import tf
from univip_jax.data.records import decode_image

_HALVINGS = (1, 2, 4, 8)  # at which libjpeg decodes, in less time


def extents(sizes: Int[np.ndarray, "N 2"], side: int) -> Int[np.ndarray, "N 2"]:
    """Heights and widths of photos whose longer side is at most `side` px; those that fit keep theirs."""
    scale = np.minimum(side / sizes.max(1, keepdims=True), 1.0)
    return np.maximum(1, np.floor(sizes * scale + 0.5)).astype(np.int64)


def resize(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """uint8 [h, w, 3] resized to `size` (int32 [2]), anti-aliased."""
    resized = tf.image.resize(tf.cast(image, tf.float32), size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def decode_within(encoded: tf.Tensor, size: tf.Tensor, side: int) -> tf.Tensor:
    """A photo's pixels, uint8 [h, w, 3], its longer side at most `side` px, as `extents` says.

    A larger JPEG is decoded at a half, a quarter or an eighth, if that is still large enough, and then resized.

    Args:
      encoded: JPEG or PNG.
      size: its height and width, px, int64 [2].
    """

    def shrunk() -> tf.Tensor:
        scale = side / tf.reduce_max(size)  # float64, as `extents` counts
        extent = tf.maximum(1, tf.cast(tf.floor(tf.cast(size, tf.float64) * scale + 0.5), tf.int32))
        longest, is_jpeg = tf.reduce_max(size), tf.strings.substr(encoded, 0, 2) == b"\xff\xd8"
        halvings = tf.math.count_nonzero(longest >= side * tf.constant(_HALVINGS[1:], tf.int64), dtype=tf.int32)
        ways = [lambda: decode_image(encoded)]
        ways += [lambda ratio=ratio: tf.io.decode_jpeg(encoded, channels=3, ratio=ratio) for ratio in _HALVINGS[1:]]
        return resize(tf.switch_case(tf.where(is_jpeg, halvings, 0), ways), extent)

    return tf.cond(tf.reduce_max(size) > side, shrunk, lambda: decode_image(encoded))


def onto(image: tf.Tensor, canvas: tf.Tensor) -> tf.Tensor:
    """uint8 [h, w, 3] at the upper left of a canvas (int32 [2], px) of zeros."""
    height, width, _ = tf.unstack(tf.shape(image))
    # Rows of bytes: padding three axes takes longer.
    rows = tf.pad(tf.reshape(image, [height, 3 * width]), [[0, canvas[0] - height], [0, 3 * (canvas[1] - width)]])
    return tf.reshape(rows, [canvas[0], canvas[1], 3])
