"""A detector on the devices: a program for each canvas, compiled when the first photos on it come."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from univip_jax.data.detection.canvas import Size
from univip_jax.data.detection.testing import Photos
from univip_jax.detection.coco_ap import Found
from univip_jax.detection.predict import Predicted, predict
from univip_jax.detection.step import Detector
from univip_jax.sharding import by_batch, put_batch, replicated

Batch = TypeVar("Batch")


class Predictor:
    """Predictions for whole batches of photos, which the devices of a mesh share.

    Attributes:
      compile_seconds: spent on compiling so far.
    """

    def __init__(self, detector: Detector, variables: Any, mesh: Mesh, batch_size: int):
        """`batch_size` is a multiple of the mesh's devices."""
        self._mesh, self._batch_size = mesh, batch_size
        self._variables = jax.device_put(variables, replicated(mesh))
        everywhere, split = replicated(mesh).spec, by_batch(mesh).spec

        def part(variables: Any, images: UInt8[Array, "b H W 3"], sizes: Float[Array, "b 2"]) -> Predicted:
            found = predict(detector, variables, images, sizes)
            return found if found.masks is None else found._replace(masks=found.masks.astype(jnp.float16))

        # Suppression loops until nothing changes: on each device for itself, not all for the slowest.
        self._predict = jax.jit(
            jax.shard_map(part, mesh=mesh, in_specs=(everywhere, split, split), out_specs=split, check_vma=False)
        )
        self._programs: dict[Size, jax.stages.Compiled] = {}
        self.compile_seconds = 0.0

    def __call__(self, batches: Iterable[tuple[Batch, Photos]]) -> Iterator[tuple[Batch, Predicted]]:
        """Predictions for the photos of each batch, in all processes: this process gives its rows, and gets all.

        While the devices compute a batch, the host reads the next one.
        """
        running: tuple[Batch, Predicted] | None = None
        for batch, photos in batches:
            images, sizes = put_batch(self._mesh, photos)
            program = self._program(Size(*photos.images.shape[1:3]), images, sizes)
            started = batch, program(self._variables, images, sizes)
            if running:
                yield running[0], _on_host(running[1])
            running = started
        if running:
            yield running[0], _on_host(running[1])

    def _program(self, canvas: Size, *inputs: Array) -> jax.stages.Compiled:
        if canvas not in self._programs:
            if jax.process_index() == 0:
                print(f"compiling the detector for {canvas.height} x {canvas.width} px ...", flush=True)
            started = time.perf_counter()
            self._programs[canvas] = self._predict.lower(self._variables, *inputs).compile()
            self.compile_seconds += time.perf_counter() - started
        return self._programs[canvas]


def _on_host(predicted: Predicted) -> Predicted:
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(predicted, tiled=True)
    return jax.device_get(predicted)


def found_in(
    predicted: Predicted, row: int, image_id: int | str, frame: Size, on_canvas: Size, categories: list[int]
) -> Found:
    """A photo's detections in another frame.

    Args:
      row: of the photo in its batch.
      frame: height and width that the boxes are wanted in, px.
      on_canvas: height and width of the photo on its canvas, px.
      categories: the id of each class.
    """
    one = jax.tree.map(lambda values: values[row], predicted.detections)
    scale = np.tile(np.divide(frame, on_canvas), 2)
    return Found(
        image_id,
        *frame,
        one.boxes[one.exists] * scale,
        one.scores[one.exists],
        [categories[index] for index in one.classes[one.exists]],
        None if predicted.masks is None else predicted.masks[row][one.exists],
    )
