"""Features of every photo in a folder, without labels, as one parquet file.

python -m univip_jax.extract --run=RUN --images=DIR --out=features.parquet [--stage=4]

One row per photo, in the order of the paths: `path` (relative to the folder) and `features` (float32, of fixed length:
the mean over the map of a stage). The schema's metadata say what they are. After an interruption, run the same command
again: it resumes; with --out in a bucket, on the same machine.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# XLA reads it when it is imported; its start-up notes hide what a user needs to read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import numpy as np
from absl import flags
from jaxtyping import Array, Float, Shaped, UInt8

from univip_jax.common.cli import define_path, run
from univip_jax.common.files import at, held, on_this_machine
from univip_jax.data.labelled.views import centre_crop
from univip_jax.data.photos.decode import Rejected
from univip_jax.data.photos.listing import PhotoFile
from univip_jax.data.photos.reading import read_ahead, read_upright
from univip_jax.data.photos.sources import list_sources, passed_over_line, photos_digest
from univip_jax.evaluate.features import FeatureCache, round_batch
from univip_jax.extract.parquet import NoPhotoError, is_finished, write_features
from univip_jax.sharding import by_batch, make_mesh, replicated
from univip_jax.weights.encoder import Encoder, load_encoder

NAME, REQUIRED = "univip_jax.extract", ("run", "images", "out")
_REASON = "S160"  # bytes of the reason why a photo cannot be read


class Request(NamedTuple):
    """What the command line asks for; `image_size` 0 is the side of the run's scenes, `step` None its newest one."""

    run: str
    images: str
    out: Path
    stage: int = 4
    image_size: int = 0  # px
    batch_size: int = 64
    step: int | None = None


def load_crop(photo: PhotoFile, size: int) -> UInt8[np.ndarray, "S S 3"] | str:
    """The photo's centre crop, decoded as for training and k-NN; or the reason why it cannot be read."""
    try:
        return centre_crop(read_upright(photo), size).numpy()
    except Rejected as error:
        return str(error)


def _feature_rows(
    encoder: Encoder, mean: Any, photos: list[PhotoFile], size: int, batch_size: int, row: np.dtype
) -> Iterator[Shaped[np.ndarray, " n"]]:
    """`features` and `reason` of the photos, a batch at a time."""
    mesh = make_mesh(jax.local_devices())
    variables, batch_size = jax.device_put(encoder.variables, replicated(mesh)), round_batch(batch_size, mesh)
    crops = read_ahead(photos, lambda photo: load_crop(photo, size), 2 * batch_size)
    while batch := list(itertools.islice(crops, batch_size)):
        rows, images = np.zeros(len(batch), row), np.zeros((batch_size, size, size, 3), np.uint8)
        for index, crop in enumerate(batch):
            if isinstance(crop, str):
                rows["reason"][index] = crop.encode()
            else:
                images[index] = crop
        rows["features"] = np.asarray(mean(variables, jax.device_put(images, by_batch(mesh))))[: len(batch)]
        yield rows


def extract_folder(request: Request) -> str:
    """Writes `request.out`, or resumes what an interrupted run began; returns a closing line.

    Raises UserError for a folder without (readable) photos, a run that is none, and an output of other settings;
    TransientError where another process writes it.
    """
    folder = request.out.with_name(f"{request.out.name}.cache")
    cache = on_this_machine(folder)
    try:
        with held(folder):
            return _extract(request, cache)
    finally:
        with contextlib.suppress(OSError):  # something is left in it
            cache.rmdir()


def _extract(request: Request, folder: Path) -> str:
    photos, passed_over = list_sources([request.images])
    if line := passed_over_line(passed_over):
        print(line, flush=True)
    encoder = load_encoder(request.run, request.step)
    size = request.image_size or encoder.image_size
    made_from = {"step": encoder.step, "stage": request.stage, "pool": "mean", "image_size": size}
    made_from |= {"weights_sha256": encoder.sha256(), "num_photos": len(photos), "photos_sha256": photos_digest(photos)}
    settings = {"run": encoder.source} | {name: str(value) for name, value in made_from.items()}

    @jax.jit
    def mean(variables: Any, images: UInt8[Array, "N S S 3"]) -> Float[Array, "N F"]:
        return encoder.stages(variables, images)[request.stage - 1].mean((1, 2)).astype(np.float32)

    width = jax.eval_shape(mean, encoder.variables, jax.ShapeDtypeStruct((1, size, size, 3), np.uint8)).shape[1]
    row = np.dtype([("features", np.float32, (width,)), ("reason", _REASON)])
    cache, started = FeatureCache(folder, [*made_from.items()], row, len(photos)), time.monotonic()
    if is_finished(request.out, settings):
        cache.remove()
        return f"{request.out} is finished already: delete it to make it anew"
    if cache.num_done:
        print(f"{cache.num_done} of {len(photos)} photos are done already", flush=True)
    left = photos[cache.num_done :]
    if left:
        rows = _feature_rows(encoder, mean, left, size, request.batch_size, row)
        cache.extend(rows, request.images)
    pace = f"{len(left)} photos in this run at {len(left) / (time.monotonic() - started):.1f} photos/s"
    try:
        summary = write_features(request.out, [photo.image_id for photo in photos], cache.rows(), settings)
    except NoPhotoError:
        cache.remove()
        raise
    cache.remove()
    return f"{request.out}: {width} features of each of {summary}; {pace}"


def _define_flags() -> None:
    define_path("run", None, "The run's folder, or a file of weights.")
    text = "Folder with photos (folders in it are searched too), zip or tar file."
    define_path("images", None, text, any_bytes=True)
    define_path("out", None, "The parquet file to write.")
    flags.DEFINE_integer("stage", 4, "Which of the four stages (res2 to res5) the features leave.", 1, 4)
    flags.DEFINE_integer("image_size", 0, "Side of the centre crop, px; 0: the side of the run's scenes.", 0, 4096)
    flags.DEFINE_integer("batch_size", 64, "Photos at a time, on all devices of this machine together.", 1, 1024)
    flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.", 0)


def _work() -> None:
    values = {field: flags.FLAGS[field].value for field in Request._fields}
    print(extract_folder(Request(**values | {"out": at(values["out"])})))


if __name__ == "__main__":
    run(NAME, _define_flags, REQUIRED, _work, interrupted="the same command resumes")
