"""Features that are computed once and kept in the folder of an evaluation: for other settings of it, and to go on with.

Rows are appended as they are computed, so an interrupted pass goes on where it was. A file is found again by what it
is made from (photos, weights, view, size), and used only where its bytes are those that were written.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, UInt8
from tqdm import tqdm

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import Labelled, LabelledBatch, view_batches
from univip_jax.data.labelled.views import View, centre_crop, squash
from univip_jax.models.resnet import pool_2x2
from univip_jax.run.integrity import digests
from univip_jax.sharding import by_batch, make_mesh, replicated
from univip_jax.types import Features
from univip_jax.weights.encoder import Encoder


class Recipe(NamedTuple):
    """How a photo becomes features."""

    name: str
    view: View
    features: Callable[[Encoder, Any, UInt8[Array, "N S S 3"]], Float[Array, "N F"]]


def _pooled_res5(encoder: Encoder, variables: Any, images: UInt8[Array, "N S S 3"]) -> Float[Array, "N F"]:
    try:
        return pool_2x2(encoder.stages(variables, images)[-1])
    except ValueError as error:
        raise UserError(f"image_size={images.shape[1]} is too small: {error}") from error


CENTRE = Recipe("centre crop, global pool", centre_crop, Encoder.apply)
SQUASHED = Recipe("squashed, res5 pooled to 2 x 2", squash, _pooled_res5)


def kept_features(
    workdir: Path, encoder: Encoder, labelled: Labelled, recipe: Recipe, *, image_size: int, batch_size: int
) -> Features | None:
    """Features and labels of a set in its order, from `workdir/features`, where those that are missing are added.

    All processes compute, each `batch_size` photos at once; process 0 keeps and returns the features, the others get
    None. They stay on disk, 4 bytes a feature, and are mapped: what is not read takes no memory.
    """
    make = _compiled(encoder, recipe)
    like = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.uint8)
    width = jax.eval_shape(make, encoder.variables, like).shape[1]
    label = labelled.examples.element_spec[1]
    row = np.dtype([("features", np.float32, (width,)), ("label", label.dtype.as_numpy_dtype, tuple(label.shape))])
    made_from = [labelled.fingerprint, recipe.name, image_size, encoder.backbone, digests(encoder.variables)]
    path = workdir / "features" / f"{hashlib.sha256(repr(made_from).encode()).hexdigest()[:16]}.rows"
    num_done = _num_done(path, row.itemsize, labelled) if jax.process_index() == 0 else 0
    num_done = int(multihost_utils.broadcast_one_to_all(np.array(num_done)))
    if num_done < labelled.num_images:
        mesh = make_mesh(jax.local_devices())
        sharding, variables = by_batch(mesh), jax.device_put(encoder.variables, replicated(mesh))
        batch_size = max(batch_size, mesh.size) // mesh.size * mesh.size
        part = (jax.process_index(), jax.process_count())
        batches = view_batches(labelled, recipe.view, image_size, batch_size, start=num_done, part=part)

        def compute(images: UInt8[np.ndarray, "N S S 3"]) -> Float[Array, "N F"]:
            return make(variables, jax.device_put(images, sharding))

        _append(path, labelled, num_done, row, _row_batches(labelled, num_done, row, batch_size, batches, compute))
    if jax.process_index():
        return None
    rows = np.memmap(path, row, mode="r")
    return Features(rows["features"], np.array(rows["label"]))


@lru_cache(maxsize=1)
def _compiled(encoder: Encoder, recipe: Recipe) -> Callable[..., Array]:
    """(variables, images) to features: one program for the training and the test set."""
    return jax.jit(partial(recipe.features, encoder))


def _num_done(path: Path, row_bytes: int, labelled: Labelled) -> int:
    """How many photos' rows can be used: all where the digest is right, else those of an interrupted pass."""
    if not path.exists():
        return 0
    digest = path.with_suffix(".sha256")
    if not digest.exists():
        # The last row is computed again: with it comes the digest.
        return min(path.stat().st_size // row_bytes, labelled.num_images - 1)
    if digest.read_text() == _sha256(path):
        return labelled.num_images
    print(f"the kept features {path} are damaged: computing them again", file=sys.stderr)
    digest.unlink()
    path.unlink()
    return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _row_batches(
    labelled: Labelled,
    num_done: int,
    row: np.dtype,
    batch_size: int,
    batches: Iterator[LabelledBatch],
    compute: Callable[[UInt8[np.ndarray, "N S S 3"]], Float[Array, "N F"]],
) -> Iterator[np.ndarray]:
    """In every process, the rows of a batch of each process, until all after the first `num_done` have come."""
    for first in range(num_done, labelled.num_images, batch_size * jax.process_count()):
        rows = np.zeros(batch_size, row)
        if (batch := next(batches, None)) is not None:  # at the end, some processes have none left
            # A short batch is filled up, so that one program serves all.
            num_missing = batch_size - len(batch.labels)
            rows["features"] = compute(np.pad(batch.images, [(0, num_missing), (0, 0), (0, 0), (0, 0)]))
            rows["label"][: len(batch.labels)] = batch.labels
        as_bytes = rows.view(np.uint8).reshape(batch_size, row.itemsize)
        gathered = multihost_utils.process_allgather(as_bytes, tiled=True)
        yield gathered[: labelled.num_images - first].view(row)


def _append(path: Path, labelled: Labelled, num_done: int, row: np.dtype, batches: Iterator[np.ndarray]) -> None:
    """Writes rows behind the first `num_done` in process 0, and, after the last, the digest that vouches for all."""
    if jax.process_index():
        for _ in batches:
            pass
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            path.open("ab") as file,
            tqdm(total=labelled.num_images, initial=num_done, unit="photo", desc=f"features of {labelled.name}") as bar,
        ):
            file.truncate(num_done * row.itemsize)
            for rows in batches:
                file.write(rows.tobytes())
                file.flush()
                bar.update(len(rows))
        path.with_suffix(".sha256").write_text(_sha256(path))
    except OSError as error:
        num_bytes = labelled.num_images * row.itemsize
        raise UserError(
            f"{path} cannot be written ({error.strerror}): the features of {labelled.name} take {num_bytes:,} bytes; "
            "free them, or choose another --workdir"
        ) from error
