"""A prepared data set on disk: the record's schema in both directions, shards, sidecars and the manifest.

A data set is a folder: `photos-00000-of-00016.tfrecord` shards, a sidecar `.json` each (offsets, sha256),
`manifest.json` (last), `rejected.jsonl`. `data_prep` writes it, `univip_jax.data` reads it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from univip_jax.common import objects
from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import UserError
from univip_jax.common.files import at, on_disk
from univip_jax.data import MANIFEST
from univip_jax.data.annotated import IN_JSON, POLYGONS, InJson, Polygons
from univip_jax.data.annotated import read_annotations as read_annotations
from univip_jax.data.annotated import read_polygons as read_polygons
from univip_jax.data.host import tf
from univip_jax.data.tfrecord import fetch_record

FORMAT_VERSION = 1

_AGAIN = "run the python -m data_prep command of this data set again, it redoes only what is missing"

# Feature of the stored `tf.train.Example`: its key after `parse`, and its type.
_FEATURES = {
    "image/encoded": ("encoded", tf.io.FixedLenFeature([], tf.string)),
    "image/id": ("id", tf.io.FixedLenFeature([], tf.string)),
    "image/height": ("height", tf.io.FixedLenFeature([], tf.int64)),
    "image/width": ("width", tf.io.FixedLenFeature([], tf.int64)),
    "proposals/yxyx": ("proposals", tf.io.FixedLenSequenceFeature([4], tf.float32, allow_missing=True)),
    "objects/yxyx": ("objects", tf.io.FixedLenSequenceFeature([4], tf.float32, allow_missing=True)),
    "objects/label": ("labels", tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)),
    "objects/is_crowd": ("is_crowd", tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)),
}
_SCHEMA = {name: kind for name, (_, kind) in _FEATURES.items()}


class Record(NamedTuple):
    """One photo as stored."""

    encoded: bytes  # JPEG or PNG
    image_id: str  # the photo's path relative to the source folder, with forward slashes
    height: int  # px
    width: int  # px
    proposals: np.ndarray  # float32 [N, 4] yxyx in [0, 1]
    objects: np.ndarray  # float32 [M, 4] yxyx in [0, 1]; M = 0 where the photo is not annotated
    labels: np.ndarray  # int64 [M], the annotation's category ids
    is_crowd: np.ndarray = np.zeros([0], bool)  # [M], a box around many things; where shorter than M: False
    polygons: Polygons = Polygons()
    in_json: InJson | None = None  # None: no json names the photo, and nothing is stored


class Shard(NamedTuple):
    """One TFRecord file of a data set."""

    path: Path
    num_records: int
    offsets: np.ndarray  # int64 [num_records]: byte offset of each record, as `TFRecordDatasetV2(byte_offsets=)` wants
    photos: dict[str, list[int]]  # height, width, num_objects, ... of each photo; empty where an early sidecar lacks it


class Dataset(NamedTuple):
    """A finished data set, opened by `open_dataset`."""

    root: Path
    fingerprint: str  # sha256 over the shards' sha256: equal for equal contents
    num_records: int
    shards: tuple[Shard, ...]
    manifest: dict
    cache: Any = None  # `cache.ShardCache` of a data set in a bucket


def serialize(record: Record) -> bytes:
    """The record as a `tf.train.Example`; equal records give equal bytes."""

    def feature(kind: tf.DType, value: bytes | str | int | np.ndarray | tuple[bytes, ...]) -> tf.train.Feature:
        if kind == tf.string:
            texts = value if isinstance(value, tuple) else [value.encode() if isinstance(value, str) else value]
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))
        values = np.asarray(value, kind.as_numpy_dtype).ravel()
        if kind == tf.float32:
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    kinds, stored = _SCHEMA | POLYGONS, (*record[:-2], *record.polygons)
    if record.in_json is not None:
        kinds, stored = kinds | IN_JSON, (*stored, *record.in_json)
    features = {name: feature(kinds[name].dtype, value) for name, value in zip(kinds, stored, strict=True)}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Inverse of `serialize`, in graph, on one record (string scalar).

    Returns:
        `encoded`, `id` (string scalars), `height`, `width` (int64 scalars, px), `proposals` float32 [N, 4] yxyx,
        `objects` float32 [M, 4] yxyx, `labels` int64 [M], `is_crowd` bool [M] (False where an early record lacks it).

    Raises tf.errors.InvalidArgumentError: the bytes are not such a record.
    """
    parsed = tf.io.parse_single_example(serialized, _SCHEMA)
    record = {key: parsed[name] for name, (key, _) in _FEATURES.items()}
    num_unknown = tf.maximum(0, tf.shape(record["objects"])[0] - tf.shape(record["is_crowd"])[0])
    return record | {"is_crowd": tf.pad(record["is_crowd"] != 0, [[0, num_unknown]])}


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """JPEG or PNG bytes (string scalar) to uint8 [H, W, 3]; a grey image becomes three equal channels."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image


def read_shard(shard: Shard) -> Iterator[bytes]:
    """Serialized records of a shard, in order, checksums verified; raises UserError at the first damaged record."""
    index = 0
    try:
        with on_disk(shard.path) as path:
            for index, serialized in enumerate(tf.data.TFRecordDataset(str(path))):
                yield serialized.numpy()
                index += 1
    except tf.errors.OpError as error:
        raise UserError(f"{shard.path}: record {index} does not read: {error.message}") from error


def read_record(path: str | tf.Tensor, offset: int | tf.Tensor) -> tf.Tensor:
    """The serialized record (string scalar) at a byte offset of a TFRecord file; on a disk in graph too.

    `ranges` reads many records of a bucket at once.

    Raises tf.errors.DataLossError: it is damaged.
    """
    if isinstance(path, str) and is_bucket(path):
        return tf.constant(fetch_record(path, int(offset)))
    kind = {"output_types": [tf.string], "output_shapes": [[]]}
    records = tf.raw_ops.TFRecordDatasetV2(filenames=[path], compression_type="", buffer_size=0, byte_offsets=[offset])
    one = tf.raw_ops.TakeDataset(input_dataset=records, count=1, **kind)
    return tf.raw_ops.DatasetToSingleElement(dataset=one, **kind)[0]


def fingerprint(shard_sha256s: Iterable[str]) -> str:
    """A data set's fingerprint: sha256 over its shards' sha256 (hex), in order."""
    return hashlib.sha256("".join(shard_sha256s).encode()).hexdigest()


def read_manifest(root: Path | str) -> dict:
    """The checked contents of `root/manifest.json`.

    Raises UserError: no such folder, no manifest (unfinished, or no data set), another version, damaged.
    """
    path = at(root) / MANIFEST
    if not path.is_file():
        if not path.parent.is_dir():
            raise UserError(f"data set {root}: no such folder; make it by python -m data_prep --out={root}")
        raise UserError(f"data set {root} has no {MANIFEST}, it is unfinished or no data set: {_AGAIN} (--out={root})")
    manifest = _read_json(path)
    try:
        agrees = manifest["fingerprint"] == fingerprint(entry["sha256"] for entry in manifest["shards"])
        agrees &= manifest["num_records"] == sum(entry["num_records"] for entry in manifest["shards"])
        agrees &= all(entry["bytes"] >= 0 and entry["name"] == str(entry["name"]) for entry in manifest["shards"])
    except (KeyError, TypeError):
        agrees = False
    if not agrees:
        raise UserError(f"{path} is damaged (its numbers do not agree): delete it, then {_AGAIN}")
    return manifest


def read_sidecar(root: Path | str, entry: dict) -> Shard:
    """The shard of the manifest's `entry`, with its offsets; compares sizes, not contents.

    Raises UserError: shard or sidecar missing, damaged, or of another size than the manifest says.
    """
    path = at(root) / entry["name"]
    return _shard(path, entry, path.stat().st_size if path.is_file() else None)


def _shard(path: Path, entry: dict, size: int | None, sidecar: bytes | None = None) -> Shard:
    """`read_sidecar` of a shard of `size` bytes (None: there is none); `sidecar`: its file's contents, where known."""
    if size != entry["bytes"]:
        what = "is missing" if size is None else f"has {size} bytes, should have {entry['bytes']}"
        raise UserError(f"shard {path} {what}: {_AGAIN}")
    sidecar = _read_json(path.with_suffix(".json"), sidecar)
    try:
        offsets = np.array([*sidecar["offsets"], size], np.int64)
        good = offsets.shape == (entry["num_records"] + 1,) and offsets[0] == 0 and (np.diff(offsets) > 0).all()
        good &= all(sidecar[key] == entry[key] for key in ("num_records", "bytes", "sha256"))
        photos = dict(sidecar.get("photos") or {})
        good &= all(len(column) == entry["num_records"] for column in photos.values())
    except (KeyError, TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise UserError(f"sidecar {path.with_suffix('.json')} does not fit its shard: delete it, then {_AGAIN}")
    return Shard(path, entry["num_records"], offsets[:-1], photos)


def open_dataset(root: Path | str) -> Dataset:
    """Opens a finished data set; compares versions and sizes, but only `data_prep --check` reads every byte.

    Raises UserError: missing, unfinished, of another format version, or damaged.
    """
    manifest, root = read_manifest(root), at(root)
    if is_bucket(root):
        shards = _shards_of_bucket(root, manifest["shards"])
    else:
        shards = tuple(read_sidecar(root, entry) for entry in manifest["shards"])
    return Dataset(root, manifest["fingerprint"], manifest["num_records"], shards, manifest)


def _shards_of_bucket(root: Path, entries: list[dict]) -> tuple[Shard, ...]:
    """The shards by one listing and requests at the same time."""
    paths, there = [root / entry["name"] for entry in entries], objects.entries(root)
    sizes = [there[path.name].size if path.name in there else None for path in paths]
    sidecars = objects.read_all([path.with_suffix(".json") for path in paths])
    return tuple(map(_shard, paths, entries, sizes, sidecars))


def _read_json(path: Path, contents: bytes | None = None) -> dict:
    """A JSON object of this format version, in the file or in its contents; UserError otherwise."""
    try:
        contents = json.loads(path.read_bytes() if contents is None else contents)
        version = contents["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is missing or damaged ({error}): delete it, then {_AGAIN}") from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version}, this code reads {FORMAT_VERSION}: prepare again "
            "with python -m data_prep --images=DIR --out=NEW_DIR"
        )
    return contents
