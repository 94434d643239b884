"""A prepared data set and two labelled folders in one file of arrays, readable without TensorFlow.

The file is NumPy's `.npz` without pickled objects: the bytes of the encoded photos (JPEG, PNG), concatenated, and boxes
padded with boxes without area.
"""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from tqdm import tqdm

from benchmarks.scenes.compose import list_pair, open_square
from univip_jax.common.errors import UserError

_FORMAT = 1
_QUALITY = 95  # JPEG, of labelled photos


class Scenes(NamedTuple):
    """Photos of one size in memory, with their boxes, float32 yxyx in [0, 1]; padding has no area."""

    photos: UInt8[np.ndarray, "N S S 3"]
    proposals: Float[np.ndarray, "N P 4"]
    objects: Float[np.ndarray, "N O 4"]  # annotated


class Singles(NamedTuple):
    """Labelled photos in memory."""

    photos: UInt8[np.ndarray, "N S S 3"]
    labels: Int[np.ndarray, " N"]


class Packed(NamedTuple):
    """The data of the ablation."""

    fingerprint: str  # of the prepared data set
    scenes: Scenes
    train: Singles
    test: Singles


def pack(prepared: Path, train: Path, test: Path, single_side: int, out: Path) -> None:
    """Writes the records of a prepared data set and the photos of two class folders to `out`.

    Raises UserError if the scenes differ in size or the folders differ in their classes.
    """
    from univip_jax.data import records  # late: imports TensorFlow, which readers of the file do not need

    dataset = records.open_dataset(prepared)
    encoded, proposals, objects, sizes = [], [], [], set()
    for shard in tqdm(dataset.shards, unit="shard", desc="packing"):
        for serialized in records.read_shard(shard):
            record = records.parse(serialized)
            encoded.append(record["encoded"].numpy())
            proposals.append(record["proposals"].numpy())
            objects.append(record["objects"].numpy()[~record["is_crowd"].numpy()])
            sizes.add((int(record["height"]), int(record["width"])))
    if len(sizes) != 1 or len(set(*sizes)) != 1:
        raise UserError(f"{prepared} has photos of {len(sizes)} sizes; only square scenes of one size can be packed")
    arrays = _bytes_of("scenes", encoded) | {"proposals": _padded(proposals), "objects": _padded(objects)}
    for name, photos in zip(("train", "test"), list_pair(train, test), strict=True):
        squares = (open_square(path, single_side) for path, _ in tqdm(photos, unit="photo", desc=name))
        arrays |= _bytes_of(name, [_jpeg(square) for square in squares])
        arrays[f"{name}_labels"] = np.array([label for _, label in photos])
    np.savez(out, format=_FORMAT, fingerprint=dataset.fingerprint, **arrays)


def unpack(path: Path) -> Packed:
    """Reads a file of `pack` and decodes all photos.

    Raises UserError if it is missing or another file.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = dict(found)
        if arrays["format"] != _FORMAT:
            raise ValueError(f"format {arrays['format']}")
        scenes = Scenes(_decoded(arrays, "scenes"), arrays["proposals"], arrays["objects"])
        sets = [Singles(_decoded(arrays, name), arrays[f"{name}_labels"]) for name in ("train", "test")]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a packed data set ({error}): run python -m benchmarks.scenes") from error
    return Packed(str(arrays["fingerprint"]), scenes, *sets)


def _jpeg(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _bytes_of(name: str, encoded: list[bytes]) -> dict[str, np.ndarray]:
    ends = np.cumsum([len(one) for one in encoded])
    return {f"{name}_bytes": np.frombuffer(b"".join(encoded), np.uint8), f"{name}_ends": ends}


def _decoded(arrays: dict[str, np.ndarray], name: str) -> UInt8[np.ndarray, "N S S 3"]:
    parts = np.split(arrays[f"{name}_bytes"], arrays[f"{name}_ends"][:-1])
    photos = tqdm(parts, unit="photo", desc=f"decoding {name}")
    return np.stack([np.asarray(Image.open(io.BytesIO(part.tobytes())).convert("RGB")) for part in photos])


def _padded(boxes: list[Float[np.ndarray, "n 4"]]) -> Float[np.ndarray, "N P 4"]:
    """At least one box per photo, so that the axis is never empty."""
    padded = np.zeros((len(boxes), max(1, *(len(one) for one in boxes)), 4), np.float32)
    for row, one in zip(padded, boxes, strict=True):
        row[: len(one)] = one
    return padded
