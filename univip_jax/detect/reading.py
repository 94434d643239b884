"""The photos of a folder in whole batches, each of one canvas."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from univip_jax.data.detection.canvas import InputSpec, Size, canvas_of, canvases
from univip_jax.data.detection.testing import Photos, on_canvas
from univip_jax.data.photos.decode import Rejected
from univip_jax.data.photos.listing import PhotoFile
from univip_jax.data.photos.reading import read_ahead, read_upright


class Loaded(NamedTuple):
    """A photo on its canvas."""

    image_id: str
    size: Size  # of the upright photo, px
    image: UInt8[np.ndarray, "H W 3"]
    on_canvas: Float[np.ndarray, "2"]  # height and width of the photo on the canvas, px


class Refused(NamedTuple):
    """A photo that cannot be read."""

    image_id: str
    reason: str


def load(photo: PhotoFile, spec: InputSpec) -> Loaded | Refused:
    """A photo as the evaluation of detectors sees it."""
    try:
        image = read_upright(photo)
    except Rejected as error:
        return Refused(photo.image_id, str(error))
    size = Size(*image.shape[:2])
    canvas = canvases(spec)[canvas_of(np.array([size]), spec)[0]]
    pixels, sides = on_canvas(image, np.array(canvas, np.int32), spec)
    return Loaded(photo.image_id, size, pixels.numpy(), sides.numpy())


class PhotoBatches:
    """Iterates over batches of photos with the same canvas; the last ones of each canvas are filled up with black.

    Attributes:
      refused: the photos that could not be read, so far.
    """

    def __init__(self, photos: Sequence[PhotoFile], spec: InputSpec, batch_size: int):
        self._photos, self._spec, self._batch_size = photos, spec, batch_size
        self.refused: list[Refused] = []

    def __iter__(self) -> Iterator[tuple[list[Loaded], Photos]]:
        waiting: dict[tuple[int, ...], list[Loaded]] = {}
        for photo in read_ahead(self._photos, lambda one: load(one, self._spec), 2 * self._batch_size):
            if isinstance(photo, Refused):
                self.refused.append(photo)
                continue
            batch = waiting.setdefault(photo.image.shape, [])
            batch.append(photo)
            if len(batch) == self._batch_size:
                yield self._filled(waiting.pop(photo.image.shape))
        for batch in waiting.values():
            yield self._filled(batch)

    def _filled(self, batch: list[Loaded]) -> tuple[list[Loaded], Photos]:
        images = np.zeros((self._batch_size, *batch[0].image.shape), np.uint8)
        sizes = np.ones((self._batch_size, 2), np.float32)
        for row, photo in enumerate(batch):
            images[row], sizes[row] = photo.image, photo.on_canvas
        return batch, Photos(images, sizes)
