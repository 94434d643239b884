"""Photos of a test set on their canvases, in whole batches; each photo once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from univip_jax.data.detection.canvas import InputSpec, Size, canvas_of, canvases
from univip_jax.data.detection.pipeline import fitted
from univip_jax.data.fit import onto, resize
from univip_jax.data.host import tf
from univip_jax.data.pipeline import stream
from univip_jax.data.records import Dataset, decode_image, parse


class TestRows(NamedTuple):
    """The photos of a batch, in order."""

    __test__ = False  # pytest would collect it

    canvas: Size
    photos: Int[np.ndarray, " B"]  # positions in the data set; those from `number` on only fill the batch
    number: int


class Photos(NamedTuple):
    """Photos on one canvas."""

    images: UInt8[np.ndarray, "b H W 3"]
    sizes: Float[np.ndarray, "b 2"]  # height and width of the photo on the canvas, px


def rows_of_canvases(
    sizes: Int[np.ndarray, "N 2"], photos: Int[np.ndarray, " n"], spec: InputSpec, batch_size: int
) -> list[TestRows]:
    """Batches of the given photos: canvas after canvas, on each of them in the given order."""
    canvas, batches = canvas_of(sizes[photos], spec), []
    for number, size in enumerate(canvases(spec)):
        here = photos[canvas == number]
        for start in range(0, len(here), batch_size):
            part = here[start : start + batch_size]
            batches.append(TestRows(size, np.resize(part, batch_size), len(part)))
    return batches


def photos_on_canvases(
    dataset: Dataset, batches: Sequence[TestRows], spec: InputSpec, rows: Int[np.ndarray, " b"] | None = None
) -> Iterator[Photos]:
    """The photos of each batch, not mirrored.

    Args:
      rows: the rows of each batch that this host feeds; all of them by default.

    Raises as `data.pipeline.make_batches` does.
    """

    def columns(step: int) -> tuple[np.ndarray, ...]:
        return batches[step].photos, np.tile(batches[step].canvas, [len(batches[step].photos), 1])

    def load(serialized: tf.Tensor, _: tf.Tensor, canvas: tf.Tensor) -> Photos:
        record = parse(serialized)
        return Photos(*on_canvas(decode_image(record["encoded"]), tf.cast(canvas, tf.int32), spec))

    return stream(dataset, columns, load, rows=rows, stop=len(batches))


def on_canvas(image: tf.Tensor, canvas: tf.Tensor, spec: InputSpec) -> tuple[tf.Tensor, tf.Tensor]:
    """A photo (uint8 [h, w, 3]) as a test sees it, on a canvas of int32 [2] px, and its size there, float32 [2]."""
    size = fitted(tf.shape(image)[0], tf.shape(image)[1], tf.constant(spec.test_short_side), spec.max_side)
    return tf.ensure_shape(onto(resize(image, size), canvas), [None, None, 3]), tf.cast(size, tf.float32)
