"""Labelled photos for evaluation: class folders, or a TFDS name such as `imagenet2012:validation`."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from univip_jax.data.crops import crop, random_crops
from univip_jax.data.records import decode_image
from univip_jax.errors import UserError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif"}  # what tf.io.decode_image reads
_KEPT = 224 / 256  # of the shorter side, by the centre crop of ImageNet's protocols
_SHUFFLE = 16_384  # encoded photos; class folders list them by class, so they are shuffled before they are read


class Labelled(NamedTuple):
    """A labelled set; `examples` yields (encoded photo, label) in a fixed order."""

    name: str
    num_images: int
    classes: tuple[str, ...]
    examples: tf.data.Dataset
    is_encoded: bool  # whether `examples` yields encoded photos rather than their paths
    fingerprint: str  # of what is in it: names and sizes of files in their classes, or TFDS's version and split

    def describe(self) -> dict:
        """What `results.json` says of it."""
        return {"name": self.name, "images": self.num_images, "fingerprint": self.fingerprint}


class LabelledBatch(NamedTuple):
    """uint8 crops [n, size, size, 3] and int64 labels [n]."""

    images: np.ndarray
    labels: np.ndarray


def open_labelled(name: str) -> Labelled:
    """Opens `DIR` with a folder for each class, or `TFDS_NAME:SPLIT`.

    Raises UserError where it is neither, or a class folder holds no photo.
    """
    if Path(name).is_dir():
        return _open_folders(Path(name))
    if ":" not in name:
        raise UserError(f"labelled set {name!r} is neither a folder nor a TFDS name with its split (NAME:SPLIT)")
    import tensorflow_datasets as tfds  # late: it takes a second, and folders do not need it

    builder_name, split = name.rsplit(":", 1)
    try:
        builder = tfds.builder(builder_name)
        builder.download_and_prepare()
        decoders = {"image": tfds.decode.SkipDecoding()}
        examples = builder.as_dataset(split=split, as_supervised=True, decoders=decoders)
        num_images = builder.info.splits[split].num_examples
        classes = tuple(builder.info.features["label"].names)
        fingerprint = _digest([builder.info.full_name, split, str(num_images), *classes])
    except (tfds.core.DatasetNotFoundError, ValueError, KeyError, AssertionError, OSError) as error:
        raise UserError(f"TFDS data set {name!r} cannot be opened: {str(error).splitlines()[0]}") from error
    return Labelled(name, num_images, classes, examples, is_encoded=True, fingerprint=fingerprint)


def open_pair(train: str, test: str) -> tuple[Labelled, Labelled]:
    """A training and a test set; UserError where one cannot be opened, or their classes differ."""
    labelled, held_out = open_labelled(train), open_labelled(test)
    if labelled.classes != held_out.classes:
        raise UserError(
            f"{labelled.name} and {held_out.name} have different classes: {labelled.classes[:5]}, "
            f"{held_out.classes[:5]}"
        )
    return labelled, held_out


def hold_out(labelled: Labelled, number: int, seed: int) -> tuple[Labelled, Labelled]:
    """The set without `number` of its photos, which `seed` draws evenly, and these: to choose by, never to report.

    Raises UserError where a part would be empty.
    """
    if not 0 < number < labelled.num_images:
        raise UserError(f"{number} photos cannot be held out of the {labelled.num_images} of {labelled.name}")
    chosen = np.zeros(labelled.num_images, bool)
    chosen[np.random.Generator(np.random.Philox(seed)).permutation(labelled.num_images)[:number]] = True
    rest, held_out = (f"{labelled.name} {word} {number} held out by seed {seed}" for word in ("without", "of which"))
    return _subset(labelled, ~chosen, rest), _subset(labelled, chosen, held_out)


def _subset(labelled: Labelled, chosen: np.ndarray, name: str) -> Labelled:
    """The photos at the positions where bool `chosen` [num_images] is true, in their order."""
    mask = tf.constant(chosen)
    examples = labelled.examples.enumerate().filter(lambda position, _: mask[position]).map(lambda _, example: example)
    fingerprint = _digest([labelled.fingerprint, hashlib.sha256(np.packbits(chosen)).hexdigest()])
    return labelled._replace(name=name, num_images=int(chosen.sum()), examples=examples, fingerprint=fingerprint)


def _digest(parts: list[str]) -> str:
    """One that no other list of parts has: parts hold no NUL."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _open_folders(root: Path) -> Labelled:
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    paths, labels = [], []
    for label, folder in enumerate(folders):
        photos = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not photos:
            raise UserError(f"class folder {folder} holds no photo ({', '.join(sorted(_SUFFIXES))}); fill or remove it")
        paths += photos
        labels += [label] * len(photos)
    if len(folders) < 2:
        raise UserError(f"{root} has {len(folders)} class folders; an evaluation needs at least 2")
    examples = tf.data.Dataset.from_tensor_slices((paths, np.array(labels, np.int64)))
    files = [part for path in paths for part in (os.path.relpath(path, root), str(os.path.getsize(path)))]
    classes = tuple(folder.name for folder in folders)
    return Labelled(str(root), len(paths), classes, examples, is_encoded=False, fingerprint=_digest(files))


def _decode(labelled: Labelled, example: tf.Tensor) -> tf.Tensor:
    return decode_image(example if labelled.is_encoded else tf.io.read_file(example))


def _shape(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    shape = tf.cast(tf.shape(image), tf.float32)
    return shape[0], shape[1]


def centre_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """The centre square of 224/256 of the shorter side of uint8 [H, W, 3], resized to uint8 [size, size, 3]."""
    shape = tf.stack(_shape(image))
    half = _KEPT * tf.reduce_min(shape) / shape / 2
    return crop(image, tf.concat([0.5 - half, 0.5 + half], 0)[None], size)[0]


def centre_batches(labelled: Labelled, size: int, batch_size: int) -> Iterator[LabelledBatch]:
    """Each photo once, in order, as `centre_crop` cuts it."""

    def load(example: tf.Tensor, label: tf.Tensor) -> LabelledBatch:
        return LabelledBatch(centre_crop(_decode(labelled, example), size), label)

    batches = labelled.examples.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _numpy(labelled, batches.batch(batch_size))


def training_batches(
    labelled: Labelled,
    size: int,
    batch_size: int,
    *,
    seed: int,
    num_epochs: int,
    start_epoch: int = 0,
    rows: np.ndarray | None = None,
) -> Iterator[LabelledBatch]:
    """Shuffled whole batches of random resized crops (area 0.08..1, aspect 3/4..4/3), flipped half of the time.

    Those of an epoch are a function of the set, `batch_size`, `seed` and the epoch.

    Args:
      start_epoch: the first; they end with `num_epochs - 1`.
      rows: of each batch, ascending, that this process feeds; all of them by default. The others are not decoded.
    """
    mine = np.isin(np.arange(batch_size), np.arange(batch_size) if rows is None else rows)
    photos = labelled.num_images // batch_size * batch_size  # an epoch is whole batches

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        key = tf.random.fold_in(tf.constant([seed, 0], tf.int64), epoch)
        buffer = _SHUFFLE if labelled.is_encoded else labelled.num_images
        examples = labelled.examples.shuffle(buffer, tf.cast(key[0], tf.int64), reshuffle_each_iteration=False)
        numbered = examples.take(photos).enumerate().filter(lambda place, _: tf.constant(mine)[place % batch_size])
        return numbered.map(lambda place, example: (tf.random.fold_in(key, place), example))

    def load(key: tf.Tensor, example: tuple[tf.Tensor, tf.Tensor]) -> LabelledBatch:
        image = _decode(labelled, example[0])
        seeds = tf.random.split(key, 2)
        box = random_crops(seeds[0], *_shape(image), 1, (0.08, 1.0), (3 / 4, 4 / 3))
        view = crop(image, box, size)[0]
        return LabelledBatch(tf.image.stateless_random_flip_left_right(view, seeds[1]), example[1])

    batches = (
        tf.data.Dataset.range(start_epoch, num_epochs)
        .flat_map(one_epoch)
        .map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(int(mine.sum()), drop_remainder=True)
    )
    return _numpy(labelled, batches)


def _numpy(labelled: Labelled, batches: tf.data.Dataset) -> Iterator[LabelledBatch]:
    try:
        yield from batches.prefetch(2).as_numpy_iterator()
    except tf.errors.InvalidArgumentError as error:
        raise UserError(f"a photo of {labelled.name} cannot be decoded: {error.message.splitlines()[0]}") from error
