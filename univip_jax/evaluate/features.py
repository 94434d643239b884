"""Features of labelled photos: computed in one pass, and cached in the folder of an evaluation.

Rows are appended as they are computed, so an interrupted pass resumes. A cache's name is a digest of what the features
are made from (photos, weights, view, size); it is used only if its bytes are those that were written. It is appended to
and mapped: that of a bucket's folder lies on this machine (`buckets.near`), and another one computes it again.
"""

import contextlib
import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float, Shaped, UInt8
from tqdm import tqdm

from univip_jax.common.errors import UserError
from univip_jax.common.files import on_this_machine, sha256_of
from univip_jax.data.labelled.sets import Labelled, view_batches
from univip_jax.data.labelled.views import View, centre_crop, squash
from univip_jax.evaluate.task import Task
from univip_jax.models.resnet import pool_2x2
from univip_jax.run.integrity import digests
from univip_jax.sharding import by_batch, make_mesh, of_first_process, replicated
from univip_jax.types import Features
from univip_jax.weights.encoder import Encoder


class Readout(NamedTuple):
    """How a photo becomes features."""

    name: str
    view: View
    features: Callable[[Encoder, Any, UInt8[Array, "N S S 3"]], Float[Array, "N F"]]


CENTRE = Readout("centre crop, global pool", centre_crop, Encoder.apply)
SQUASHED = Readout(
    "squashed, res5 pooled to 2 x 2",
    squash,
    lambda encoder, variables, images: pool_2x2(encoder.stages(variables, images)[-1]),
)


class FeatureCache:
    """Rows of features in a file, in order: an interrupted pass resumes behind the last whole row.

    Attributes:
      path: `FOLDER/DIGEST.rows`; a sha256 beside it vouches for a finished file.
      num_done: how many rows are there, of `num_rows`.
    """

    def __init__(self, folder: Path, made_from: list, row: np.dtype, num_rows: int):
        """`made_from` is what decides the values; a finished file whose sha256 is wrong is removed."""
        self.path = folder / f"{hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]}.rows"
        self._digest, self._row, self._num_rows = self.path.with_suffix(".sha256"), row, num_rows
        self.num_done = self._count()

    def _count(self) -> int:
        if not self.path.exists():
            return 0
        if not self._digest.exists():
            # The last row is computed again, so that the digest follows.
            return min(self.path.stat().st_size // self._row.itemsize, self._num_rows - 1)
        if self._digest.read_text() == sha256_of(self.path):
            return self._num_rows
        print(f"the feature cache {self.path} is damaged: computing it again", file=sys.stderr)
        self._digest.unlink()
        self.path.unlink()
        return 0

    def extend(self, batches: Iterable[Shaped[np.ndarray, " n"]], name: str) -> None:
        """Appends the missing rows of the photos `name`. Raises UserError where they cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with (
                self.path.open("ab") as file,
                progress_bar(self._num_rows, "photo", f"features of {name}", self.num_done) as bar,
            ):
                file.truncate(self.num_done * self._row.itemsize)
                for rows in batches:
                    file.write(rows.tobytes())
                    file.flush()
                    bar.update(len(rows))
            self._digest.write_text(sha256_of(self.path))
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}): the features of {name} take "
                f"{self._num_rows * self._row.itemsize:,} bytes; free them, or choose another folder"
            ) from error

    def rows(self) -> Shaped[np.ndarray, " n"]:
        """All rows, mapped: what is not read takes no memory."""
        return np.memmap(self.path, self._row, mode="r")

    def remove(self) -> None:
        """Deletes the file, and its folder if nothing else is in it."""
        self.path.unlink(missing_ok=True)
        self._digest.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()


def cached_features(task: Task, labelled: Labelled, readout: Readout) -> Features | None:
    """Features and labels of a set in its order, from `features/` of the workdir; missing ones are computed and added.

    All processes compute, each `task.batch_size` photos at once. Process 0 writes and returns the features, 4 bytes
    each and mapped; the others return None.
    """
    encoder, label = task.encoder, labelled.examples.element_spec[1]
    image = jax.ShapeDtypeStruct((1, task.image_size, task.image_size, 3), np.uint8)
    width = jax.eval_shape(_compiled(encoder, readout), encoder.variables, image).shape[1]
    row = np.dtype([("features", np.float32, (width,)), ("label", label.dtype.as_numpy_dtype, tuple(label.shape))])
    made_from = [labelled.fingerprint, readout.name, task.image_size, encoder.backbone, digests(encoder.variables)]
    primary = jax.process_index() == 0
    folder = on_this_machine(task.workdir) / "features"
    cache = FeatureCache(folder, made_from, row, labelled.num_images) if primary else None
    (num_done,) = of_first_process([cache.num_done if cache else 0])
    if num_done < labelled.num_images:
        rows = _gathered_rows(task, labelled, readout, num_done, row)
        deque(rows, maxlen=0) if cache is None else cache.extend(rows, labelled.name)
    if cache is None:
        return None
    rows = cache.rows()
    return Features(rows["features"], np.array(rows["label"]))


def extract(encoder: Encoder, labelled: Labelled, image_size: int, batch_size: int) -> Features:
    """Features of every photo's centre crop, by the devices of this process alone."""
    with progress_bar(labelled.num_images, "photo", f"features of {labelled.name}") as bar:
        batches = []
        for batch in _feature_batches(encoder, labelled, CENTRE, image_size, batch_size):
            batches.append(batch)
            bar.update(len(batch.labels))
    return Features(*map(np.concatenate, zip(*batches, strict=True)))


@lru_cache(maxsize=1)
def _compiled(encoder: Encoder, readout: Readout) -> Callable[..., Float[Array, "N F"]]:
    """(variables, images) to features: one program for the training and the test set."""
    return jax.jit(partial(readout.features, encoder))


def _feature_batches(
    encoder: Encoder,
    labelled: Labelled,
    readout: Readout,
    image_size: int,
    batch_size: int,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Features]:
    """Features of the photos from `start` on; `part` as of `view_batches`. Each batch is split over local devices."""
    mesh = make_mesh(jax.local_devices())
    compute, variables = _compiled(encoder, readout), jax.device_put(encoder.variables, replicated(mesh))
    batch_size = round_batch(batch_size, mesh)
    for images, labels in view_batches(labelled, readout.view, image_size, batch_size, start=start, part=part):
        features = compute(variables, jax.device_put(fill_batch(images, batch_size), by_batch(mesh)))
        yield Features(np.asarray(features)[: len(labels)], labels)


def _gathered_rows(
    task: Task, labelled: Labelled, readout: Readout, start: int, row: np.dtype
) -> Iterator[Shaped[np.ndarray, " n"]]:
    """In every process, one batch of each process at a time, until all rows from `start` on have come."""
    part = (jax.process_index(), jax.process_count())
    batch_size = round_batch(task.batch_size, make_mesh(jax.local_devices()))
    batches = _feature_batches(task.encoder, labelled, readout, task.image_size, batch_size, start, part)
    for first in range(start, labelled.num_images, batch_size * part[1]):
        rows = np.zeros(batch_size, row)
        if (batch := next(batches, None)) is not None:  # at the end, some processes have none left
            rows["features"][: len(batch.labels)], rows["label"][: len(batch.labels)] = batch
        as_bytes = rows.view(np.uint8).reshape(batch_size, row.itemsize)
        gathered = multihost_utils.process_allgather(as_bytes, tiled=True)
        yield gathered[: labelled.num_images - first].view(row).reshape(-1)


def round_batch(batch_size: int, mesh: Mesh) -> int:
    """The batch size, rounded down to what the devices share evenly; at least one row for each."""
    return max(batch_size, mesh.size) // mesh.size * mesh.size


def fill_batch(rows: Shaped[np.ndarray, "n ..."], batch_size: int, value: int = 0) -> Shaped[np.ndarray, "N ..."]:
    """Rows filled up to `batch_size`, so that one program serves the last batch too."""
    return np.pad(rows, [(0, batch_size - len(rows)), *[(0, 0)] * (rows.ndim - 1)], constant_values=value)


def progress_bar(total: int, unit: str, what: str, initial: int = 0) -> tqdm:
    """Progress with the time left, in the first process; a log file gets one line a minute."""
    every = 0.5 if sys.stderr.isatty() else 60  # s
    disable = jax.process_index() > 0
    return tqdm(
        total=total, initial=initial, unit=unit, desc=what, dynamic_ncols=True, mininterval=every, disable=disable
    )
