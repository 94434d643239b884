"""Features of every photo in a folder, without labels, as one parquet file.

python -m univip_jax.extract --run=RUN --images=DIR --out=features.parquet [--stage=4] [--pool=mean]

One row a photo, in the order of the paths: `path` (relative to the folder) and `features` (float32, of fixed length).
The schema's metadata say what they are; `shape` is [height, width, channels] of one photo's features.
Run the same command again after an interruption: only unfinished parts are redone.
"""

import os
import re
import time
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

# XLA reads it when it is imported; its start-up notes hide what a user needs to read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float, UInt8
from tqdm import tqdm

from univip_jax.common.cli import run
from univip_jax.common.errors import UserError
from univip_jax.data.host import available_cores
from univip_jax.data.labelled.views import centre_crop
from univip_jax.data.photos.decode import Rejected, read_photo
from univip_jax.data.photos.sources import PhotoFile, find_photos, open_photo
from univip_jax.data.records import decode_image
from univip_jax.extract.feature_file import PART_PHOTOS, FeatureFile, Part
from univip_jax.sharding import by_batch, make_mesh, replicated
from univip_jax.weights import encoder as features

NAME, REQUIRED = "univip_jax.extract", ("run", "images", "out")
_MAX_THREADS = 16
_POOL = re.compile(r"mean|[1-9]\d?x[1-9]\d?")


class Request(NamedTuple):
    """What the command line asks for; `image_size` 0 is that of the run, `step` None its newest checkpoint."""

    run: str
    images: str
    out: Path
    stage: int = 4
    pool: str = "mean"
    image_size: int = 0  # px
    batch_size: int = 64
    step: int | None = None


def adaptive_mean(maps: Float[Array, "N H W C"], rows: int, columns: int) -> Float[Array, "N {rows} {columns} C"]:
    """Means over a grid of windows, those of PyTorch's AdaptiveAvgPool2d.

    Window i of n over a side of H is floor(i H / n) .. ceil((i + 1) H / n): none is empty, and they overlap where n
    does not divide H.
    """

    def windows(side: int, count: int) -> list[slice]:
        return [slice(i * side // count, -(-(i + 1) * side // count)) for i in range(count)]

    if rows == columns == 1:
        return maps.mean((1, 2), keepdims=True)  # in one go, as the backbone's own features
    _, height, width, _ = maps.shape
    maps = jnp.stack([maps[:, window].mean(1) for window in windows(height, rows)], 1)
    return jnp.stack([maps[:, :, window].mean(2) for window in windows(width, columns)], 2)


class Extractor:
    """Crops to pooled maps of one stage; each batch is split over the local devices.

    Attributes:
      batch_size: a multiple of the devices;  shape: (h, w, c) of one photo's features.
    """

    def __init__(self, encoder: features.Encoder, request: Request, image_size: int):
        grid = (1, 1) if request.pool == "mean" else [int(side) for side in request.pool.split("x")]

        def pooled(variables: Any, images: UInt8[Array, "N H W 3"]) -> Float[Array, "N h w c"]:
            return adaptive_mean(encoder.stages(variables, images)[request.stage - 1], *grid)

        mesh, devices = make_mesh(jax.local_devices()), len(jax.local_devices())
        self.batch_size = max(request.batch_size, devices) // devices * devices
        self._sharding = by_batch(mesh)
        self._variables = jax.device_put(encoder.variables, replicated(mesh))
        self._pooled = jax.jit(pooled)
        images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.uint8)
        self.shape = jax.eval_shape(pooled, encoder.variables, images).shape[1:]

    def __call__(self, crops: list[UInt8[np.ndarray, "S S 3"]]) -> Float[np.ndarray, "n F"]:
        """Flattened features of at most `batch_size` crops; filled up, so that one program serves any number."""
        batch = np.zeros((self.batch_size, *crops[0].shape), np.uint8)
        batch[: len(crops)] = crops
        found = self._pooled(self._variables, jax.device_put(batch, self._sharding))
        return np.asarray(found, np.float32)[: len(crops)].reshape(len(crops), -1)


def load_crop(photo: PhotoFile, size: int) -> UInt8[np.ndarray, "S S 3"] | str:
    """The photo's centre crop, decoded as for training and k-NN, or why there is none."""
    try:
        return centre_crop(decode_image(read_photo(open_photo(photo).encoded).encoded), size).numpy()
    except Rejected as error:
        return str(error)


def _read_ahead(threads: ThreadPoolExecutor, photos: list[PhotoFile], size: int, ahead: int) -> Iterator[Any]:
    """What `load_crop` gives for each photo, in order; `ahead` photos are read before they are asked for."""
    waiting = deque()
    for photo in photos:
        waiting.append(threads.submit(load_crop, photo, size))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _extract_part(
    part: Part, crops: Iterator[Any], extractor: Extractor, bar: tqdm
) -> tuple[list[str], Float[np.ndarray, "n F"], list[dict]]:
    """Paths and features of the photos that can be read, and {"id", "reason"} of the others."""
    paths, rejected, batch = [], [], []
    found = [np.zeros((0, int(np.prod(extractor.shape))), np.float32)]
    # The photos first: they end before the crops, which go on into the next part. No batch does: a part is the same
    # whenever it is made.
    for index, (photo, crop) in enumerate(zip(part.photos, crops, strict=False), start=1):
        if isinstance(crop, str):
            rejected.append({"id": photo.image_id, "reason": crop})
        else:
            paths.append(photo.image_id)
            batch.append(crop)
        if len(batch) == extractor.batch_size or (batch and index == len(part.photos)):
            found.append(extractor(batch))
            batch = []
        bar.update()
    return paths, np.concatenate(found), rejected


def _extract_missing(file: FeatureFile, extractor: Extractor, image_size: int) -> str:
    """Makes the parts that are not finished; gives the pace, as a clause of the closing line."""
    missing = [part for part in file.parts if file.rejected(part) is None]
    photos = [photo for part in missing for photo in part.photos]
    total = sum(len(part.photos) for part in file.parts)
    if len(photos) < total:
        print(f"{total - len(photos)} of {total} photos are done already", flush=True)
    started = time.monotonic()
    threads = ThreadPoolExecutor(min(_MAX_THREADS, available_cores()))
    bar = tqdm(total=total, initial=total - len(photos), unit="photo", dynamic_ncols=True)
    bar.mininterval = 0.5 if os.isatty(2) else 60  # into a log file, one line a minute is enough
    with warnings.catch_warnings(), bar:
        warnings.simplefilter("ignore")  # read_photo's own filter is not made for threads
        crops = _read_ahead(threads, photos, image_size, 2 * extractor.batch_size)
        try:
            for part in missing:
                file.write_part(part, *_extract_part(part, crops, extractor, bar))
        finally:
            threads.shutdown(cancel_futures=True)
    return f"{len(photos)} photos in this run at {len(photos) / (time.monotonic() - started):.1f} photos/s"


def extract_folder(request: Request) -> str:
    """Writes `request.out`, or finishes what an interrupted run began; gives a closing line.

    Raises UserError for a folder without (readable) photos, a run that is none, and an output of other settings.
    """
    photos = find_photos(request.images)
    encoder = features.load_encoder(request.run, request.step)
    image_size = request.image_size or encoder.image_size
    extractor = Extractor(encoder, request, image_size)
    settings = {"run": encoder.source, "step": encoder.step, "stage": request.stage, "pool": request.pool}
    settings |= {"image_size": image_size, "weights_sha256": encoder.sha256()}
    file = FeatureFile(request.out, settings, photos, extractor.shape)
    try:
        if file.is_finished():
            return f"{request.out} is finished already: delete it to make it anew"
        file.open_parts()
        pace = _extract_missing(file, extractor, image_size)
        made = file.join()
    except OSError as error:
        raise UserError(f"--out={request.out} cannot be written ({error}): free space or rights, then rerun") from error
    return f"{request.out}: features {list(extractor.shape)} of {made}; {pace}"


def _define_flags() -> None:
    flags.DEFINE_string("run", None, "The run's folder, or a file of weights.")
    flags.DEFINE_string("images", None, "Folder with photos (folders in it are searched too), zip or tar file.")
    flags.DEFINE_string("out", None, "The parquet file to write.")
    flags.DEFINE_integer("stage", 4, "Which of the four stages (res2 to res5) the features leave.", 1, 4)
    flags.DEFINE_string("pool", "mean", "Averaged over the map: mean, or over a grid of HxW windows, as 2x2.")
    flags.DEFINE_integer("image_size", 0, "Side of the centre crop, px; 0: that of the run's scenes.", 0, 4096)
    flags.DEFINE_integer("batch_size", 64, "Photos at a time, on all devices of this machine together.", 1, PART_PHOTOS)
    flags.DEFINE_integer("step", None, "Of the checkpoint; the newest by default.", 0)


def _check_flags() -> None:
    if not _POOL.fullmatch(flags.FLAGS.pool):
        raise flags.Error(f"--pool={flags.FLAGS.pool} is neither mean nor HxW, as 2x2")


def _work() -> None:
    values = {field: flags.FLAGS[field].value for field in Request._fields}
    print(extract_folder(Request(**values | {"out": Path(values["out"])})))


if __name__ == "__main__":
    run(
        NAME,
        _define_flags,
        REQUIRED,
        _work,
        check=_check_flags,
        interrupted="the same command goes on from the finished parts",
    )
