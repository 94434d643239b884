"""Labelled photos for evaluation: class folders, VOC's layout, or a TFDS name such as `imagenet2012:validation`."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import TransientError, UserError, shorten
from univip_jax.common.files import at
from univip_jax.data.host import available_cores, tf
from univip_jax.data.labelled.crops import crop, torchvision_crops
from univip_jax.data.labelled.folders import FolderSplit, read_folders
from univip_jax.data.labelled.photo import decode, fetch, name_and_reason
from univip_jax.data.labelled.tfds_labels import open_tfds
from univip_jax.data.labelled.views import View, centre_crop
from univip_jax.data.labelled.voc import VocSplit, read_voc

_READS = 32  # at the same time, of photos in a bucket: with 50 ms of latency 640 a second
_SHUFFLE = 16_384  # encoded photos; class folders list them by class, so they are shuffled before they are read


class Labelled(NamedTuple):
    """A labelled set; `examples` yields (encoded photo, label) in a fixed order.

    A label is the number of a class, int64; or int8 [classes], as in `voc.VocSplit`, where a photo may show several.
    """

    name: str
    num_images: int
    classes: tuple[str, ...]
    examples: tf.data.Dataset
    is_encoded: bool  # False: `examples` yields paths instead of encoded photos
    fingerprint: str  # of the contents: names and sizes of files in their classes, or TFDS's version and split
    drawn_from: dict | None = None  # `describe()` of the whole set, if this is a random part

    @property
    def is_multi_label(self) -> bool:
        """Whether a photo may show several classes."""
        return self.examples.element_spec[1].shape.rank == 1

    def read(self, example: tf.Tensor) -> tf.Tensor:
        """The encoded photo of one of `examples`, in graph."""
        if self.is_encoded:
            return example
        return fetch(example) if is_bucket(self.name) else tf.io.read_file(example)

    def describe(self) -> dict:
        """The entry in `results.json`."""
        return {"name": self.name, "images": self.num_images, "fingerprint": self.fingerprint}


class LabelledBatch(NamedTuple):
    """uint8 crops [n, size, size, 3] and labels as in `Labelled`, [n] or [n, classes]."""

    images: np.ndarray
    labels: np.ndarray


def open_labelled(name: str) -> Labelled:
    """Opens `DIR` with a folder for each class, `DIR:SPLIT` of VOC's layout, or `TFDS_NAME:SPLIT`.

    Raises UserError where it is none of these, has fewer than two classes, or a class folder holds no photo.
    """
    place, _, split = name.rpartition(":")
    if at(name).is_dir():
        labelled = _of_files(at(name), str(at(name)), read_folders(at(name)))
    elif not place or not split:
        raise UserError(f"labelled set {name!r} is neither a folder nor a TFDS name with its split (NAME:SPLIT)")
    elif at(place).is_dir():
        labelled = _of_files(at(place), name, read_voc(at(place), split))
    else:
        examples, num_images, classes, version = open_tfds(place, split)
        fingerprint = _digest([version, split, str(num_images), *classes])
        labelled = Labelled(name, num_images, classes, examples, is_encoded=True, fingerprint=fingerprint)
    if len(labelled.classes) < 2:
        raise UserError(f"{name} has {len(labelled.classes)} classes; an evaluation needs at least 2")
    return labelled


def open_pair(train: str, test: str, *, allow_multi_label: bool = False) -> tuple[Labelled, Labelled]:
    """A training and a test set; UserError where one cannot be opened, or their classes differ."""
    labelled, held_out = open_labelled(train), open_labelled(test)
    for one in (labelled, held_out):
        if one.is_multi_label and not allow_multi_label:
            raise UserError(f"photos of {one.name} show several classes; this is for configs/svm.py")
    if labelled.classes != held_out.classes:
        differing = [
            f"{name!r} is only in {one.name}"
            for one, other in ((labelled, held_out), (held_out, labelled))
            for name in sorted(set(one.classes) - set(other.classes))
        ]
        raise UserError(
            f"{labelled.name} and {held_out.name} have different classes: {shorten(differing) or 'in another order'}"
        )
    return labelled, held_out


def hold_out(labelled: Labelled, number: int, seed: int) -> tuple[Labelled, Labelled]:
    """The rest of the set, and `number` photos that `seed` draws evenly: to choose by, never to report.

    Raises UserError where a part would be empty.
    """
    if not 0 < number < labelled.num_images:
        raise UserError(f"{number} photos cannot be held out of the {labelled.num_images} of {labelled.name}")
    chosen = np.zeros(labelled.num_images, bool)
    chosen[np.random.Generator(np.random.Philox(seed)).permutation(labelled.num_images)[:number]] = True
    rest, held_out = (f"{labelled.name} {word} {number} held out by seed {seed}" for word in ("without", "of which"))
    return choose(labelled, ~chosen, rest), choose(labelled, chosen, held_out)


def choose(labelled: Labelled, chosen: np.ndarray, name: str) -> Labelled:
    """The photos at the positions where bool `chosen` [num_images] is true, in their order."""
    mask = tf.constant(chosen)
    examples = labelled.examples.enumerate().filter(lambda position, _: mask[position]).map(lambda _, example: example)
    fingerprint = _digest([labelled.fingerprint, hashlib.sha256(np.packbits(chosen)).hexdigest()])
    return labelled._replace(name=name, num_images=int(chosen.sum()), examples=examples, fingerprint=fingerprint)


def _digest(parts: list[str]) -> str:
    """A digest that no other list of parts has: parts hold no NUL."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _of_files(root: Path, name: str, split: FolderSplit | VocSplit) -> Labelled:
    paths, labels, classes, sizes = split
    files = [part for path, n in zip(paths, sizes, strict=True) for part in (os.path.relpath(path, str(root)), str(n))]
    if labels.ndim > 1:  # otherwise the paths tell the labels
        files += [*classes, hashlib.sha256(labels.tobytes()).hexdigest()]
    return Labelled(name, len(paths), classes, of_paths(paths, labels), is_encoded=False, fingerprint=_digest(files))


def of_paths(paths: list[str], labels: np.ndarray) -> tf.data.Dataset:
    """The examples of a set of files; names may have any bytes."""
    return tf.data.Dataset.from_tensor_slices(([os.fsencode(path) for path in paths], labels))


def centre_batches(labelled: Labelled, size: int, batch_size: int) -> Iterator[LabelledBatch]:
    """Centre crops of all photos, in order."""
    return view_batches(labelled, centre_crop, size, batch_size)


def view_batches(
    labelled: Labelled, view: View, size: int, batch_size: int, *, start: int = 0, part: tuple[int, int] = (0, 1)
) -> Iterator[LabelledBatch]:
    """Views of the photos from `start` on, in order.

    Args:
      part: (index, count): every `count`-th batch, from `index` on; the last one may be missing.
    """

    def load(example: tf.Tensor, label: tf.Tensor) -> LabelledBatch:
        return LabelledBatch(view(decode(labelled.read(example)), size), label)

    index, count = part
    examples = labelled.examples.skip(start)
    if count > 1:
        examples = examples.batch(batch_size).shard(count, index).unbatch()
    batches = examples.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return as_numpy(labelled, batches.batch(batch_size))


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

    The batches of an epoch depend on the set, `batch_size`, `seed` and the epoch alone.

    Args:
      start_epoch: the first epoch; the last is `num_epochs - 1`.
      rows: the rows of each batch that this process feeds, ascending; all by default. Other rows are not decoded.
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
        image = decode(labelled.read(example[0]))
        seeds = tf.random.split(key, 2)
        sides = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
        box = torchvision_crops(seeds[0], *sides, 1, (0.08, 1.0), (3 / 4, 4 / 3))
        view = crop(image, box, size)[0]
        return LabelledBatch(tf.image.stateless_random_flip_left_right(view, seeds[1]), example[1])

    batches = (
        tf.data.Dataset.range(start_epoch, num_epochs)
        .flat_map(one_epoch)
        .map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(int(mine.sum()), drop_remainder=True)
    )
    return as_numpy(labelled, batches)


def as_numpy(labelled: Labelled, batches: tf.data.Dataset) -> Iterator:
    """The elements of `batches`, made from the set; UserError that names the photos that cannot be read."""
    try:
        yield from _with_threads(labelled, batches.prefetch(2)).as_numpy_iterator()
    except tf.errors.DataLossError as error:
        raise UserError(f"{labelled.name} is damaged ({error.message.splitlines()[0]}): download it again") from error
    except tf.errors.OpError as error:
        if failed := re.search(r"\b(TransientError|UserError): (.+)", error.message):  # `fetch`
            raise (TransientError if failed[1] == "TransientError" else UserError)(failed[2]) from None
        raise _unreadable(labelled) from error


def _with_threads(labelled: Labelled, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """As many threads as requests to a bucket wait at a time; on a disk TensorFlow chooses."""
    if labelled.is_encoded or not is_bucket(labelled.name):
        return dataset
    options = tf.data.Options()
    options.threading.private_threadpool_size = max(_READS, available_cores())
    return dataset.with_options(options)


def _unreadable(labelled: Labelled) -> UserError:
    """Names all photos that cannot be decoded, once one of them failed; reads the whole set."""

    def load(position: tf.Tensor, example: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return position, tf.shape(decode(labelled.read(example[0])))  # TensorFlow computes only what a result needs

    numbered = labelled.examples.enumerate()
    decoded = _with_threads(labelled, numbered.map(load, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors())
    what = f"looking for unreadable photos of {labelled.name}"
    good = {int(position) for position, _ in tqdm(decoded.as_numpy_iterator(), what, labelled.num_images, unit="photo")}
    bad = tf.constant(sorted(set(range(labelled.num_images)) - good), tf.int64)
    failed = numbered.filter(lambda position, _: tf.reduce_any(position == bad)).as_numpy_iterator()
    if not (names := [why for n, (e, _) in failed if (why := name_and_reason(n, e, labelled.is_encoded))]):
        return TransientError(f"a photo of {labelled.name} could not be read, and now all can: run the command again")
    of_all = f"{len(names)} of the {labelled.num_images} photos of {labelled.name}"
    return UserError(f"{of_all} cannot be read or decoded: {shorten(names)}; remove or replace them")
