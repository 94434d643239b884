"""Where photos come from: folders, zip and tar files, TFDS; what they hold, and how one photo is opened.

A photo is a small description that pickles: a worker, wherever it runs, opens it by itself.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from univip_jax.common.errors import UserError
from univip_jax.data.photos import archives, folders, tfds
from univip_jax.data.photos.decode import Rejected
from univip_jax.data.photos.listing import SUFFIXES, Entry, Listing, as_text
from univip_jax.data.polygons import Polygons

MAX_BYTES = 1 << 30  # of a photo's file; a larger one is none, and would fill the memory


class PhotoFile(NamedTuple):
    """One photo of a source, not yet opened."""

    image_id: str  # path relative to the source with forward slashes; of several sources: after the source's name
    path: str  # the file, the archive that holds it, or TFDS_NAME:VERSION@SPLIT; `refused`: why
    num_bytes: int  # -1 where the file cannot be looked at (a broken link), 0 where nobody knows before it is read
    kind: str = "file"  # file | zip | tar | tfds | refused
    position: int = 0  # zip: number of the member; tar: byte offset of its data; tfds: number in the split


class Objects(NamedTuple):
    """Annotated objects in fractions of a photo."""

    boxes: np.ndarray = np.zeros([0, 4], np.float32)  # [M, 4] yxyx in [0, 1]
    labels: np.ndarray = np.zeros([0], np.int64)  # [M]
    is_crowd: np.ndarray = np.zeros([0], bool)  # [M]
    polygons: Polygons = Polygons()  # points yx in [0, 1]


class Opened(NamedTuple):
    """A photo's bytes as found, and the annotations that came with them."""

    encoded: bytes
    objects: Objects | None  # in the frame of the pixels as encoded, before any EXIF rotation


def find_photos(source: Path | str) -> list[PhotoFile]:
    """Photos of one folder (and all folders below), zip or tar file, sorted by their ids; see `list_source`."""
    return photo_files([source], [list_source(source).entries])


def list_source(source: Path | str) -> Listing:
    """What a folder, a zip or a tar file holds, unsorted.

    Raises:
        UserError: no such file or folder, a file that is neither, or no photo in it.
    """
    if os.path.isdir(source):
        listing = folders.list_folder(source)
    elif os.path.isfile(source):
        listing = archives.list_archive(Path(source))
    else:
        raise UserError(f"--images={source}: no such folder or file; give a folder with photos, a zip or a tar file")
    if not listing.entries:
        raise UserError(f"--images={source} has no photos in it or below; photos end in {' '.join(SUFFIXES)}")
    return listing


def photo_files(sources: Sequence[Path | str], listed: Sequence[list[Entry]]) -> list[PhotoFile]:
    """The photos of all sources, sorted by id; with several, each id begins with its source's name.

    Raises:
        UserError: a source is given twice.
    """
    photos = []
    for source, prefix, entries in zip(sources, _prefixes(sources), listed, strict=True):
        root = os.path.join(source, "")
        for name, num_bytes, kind, position, reason in entries:
            path = reason or (root + name if kind == "file" else str(source))
            photos.append(PhotoFile(prefix + as_text(name), path, num_bytes, kind, position))
    return sorted(photos)


def _prefixes(sources: Sequence[Path | str]) -> list[str]:
    """What goes before the ids of each source: nothing for a single one, else its name, numbered where two share it."""
    if len(sources) == 1:
        return [""]
    names: list[str] = []
    real = [os.path.realpath(source) for source in sources]
    for path, source in zip(map(Path, real), sources, strict=True):
        if real.count(str(path)) > 1:
            raise UserError(f"--images={source} is given twice: give each source once")
        name = as_text(path.name if path.is_dir() else path.stem)
        numbered = (f"{name}-{number}" for number in range(2, len(real) + 2))
        names.append(next(one for one in (name, *numbered) if one not in names))
    return [f"{name}/" for name in names]


def tfds_photos(dataset: str, split: str) -> list[PhotoFile]:
    """The photos of a TFDS split, in its order; the ids are NAME/VERSION/SPLIT/NUMBER.

    Raises:
        UserError: it cannot be opened, or is empty.
    """
    photos = [
        PhotoFile(
            f"{part.dataset.replace(':', '/')}/{part.split}/{number:08d}",
            f"{part.dataset}@{part.split}",
            0,
            "tfds",
            number,
        )
        for part in tfds.open_split(dataset, split)
        for number in range(part.start, part.stop)
    ]
    if not photos:
        raise UserError(f"--dataset={dataset} --split={split} holds no photos: choose another split")
    return sorted(set(photos))


def open_photo(photo: PhotoFile) -> Opened:
    """Reads a photo's bytes.

    Raises:
        Rejected: it cannot be read.
        UserError: the archive or the TFDS data set that holds it cannot be read.
    """
    if photo.kind == "refused":
        raise Rejected(photo.path)
    if photo.num_bytes > MAX_BYTES:
        raise Rejected(f"too large: {photo.num_bytes} bytes are over {MAX_BYTES}")
    if photo.kind == "tfds":
        encoded, *annotated = tfds.read_example(*photo.path.rsplit("@", 1), photo.position)
        return Opened(encoded, Objects(*annotated))
    if photo.kind == "zip":
        return Opened(archives.read_zip_member(photo.path, photo.position), None)
    if photo.kind == "tar":
        return Opened(archives.read_span(photo.path, photo.position, photo.num_bytes), None)
    try:
        return Opened(Path(photo.path).read_bytes(), None)
    except OSError as error:
        raise Rejected(f"unreadable file: {error.strerror}") from error


def photos_digest(photos: list[PhotoFile]) -> str:
    """Sha256 (hex) of the photos' ids and sizes: tells one set from another without reading them."""
    lines = (f"{photo.image_id}\t{photo.num_bytes}\n" for photo in photos)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
