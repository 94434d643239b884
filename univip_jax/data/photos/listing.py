"""What a source holds: its types, and how a folder is listed."""

import os
import stat
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from univip_jax.common.buckets import is_bucket
from univip_jax.common.files import at
from univip_jax.common.objects import entries
from univip_jax.data.annotated import InJson, Polygons
from univip_jax.data.photos import SUFFIXES

# What systems and programs leave beside photos: thumbnails, bins, listings; in lower case.
_SYSTEM = {
    *("__macosx", "@eadir", "@__thumb", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "$recycle.bin"),
    *("recycler", "lost+found", "system volume information", "network trash folder", "temporary items"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
}


class PhotoFile(NamedTuple):
    """One photo of a source, not yet opened."""

    image_id: str  # path relative to the source with forward slashes; with several sources, after the source's name
    path: str  # the file or object, the archive that holds it, or TFDS_NAME:VERSION@SPLIT; `refused`: why
    num_bytes: int  # -1 where the file cannot be examined (a broken link), 0 where it is unknown until it is read
    kind: str = "file"  # file | zip | tar | tfds | refused
    position: int = 0  # zip: number of the member; tar: byte offset of its data; tfds: number in the split


class Objects(NamedTuple):
    """Annotated objects in fractions of a photo."""

    boxes: np.ndarray = np.zeros([0, 4], np.float32)  # [M, 4] yxyx in [0, 1]
    labels: np.ndarray = np.zeros([0], np.int64)  # [M]
    is_crowd: np.ndarray = np.zeros([0], bool)  # [M]
    polygons: Polygons = Polygons()  # points yx in [0, 1]
    in_json: InJson | None = None  # None: they do not come from a json


class Opened(NamedTuple):
    """A photo's bytes as found, and the annotations that came with them."""

    encoded: bytes
    objects: Objects | None = None  # in the frame of the pixels as encoded, before any EXIF rotation


class Listing(NamedTuple):
    """What sources hold."""

    photos: list[PhotoFile]
    passed_over: Counter[str]  # files of other formats by suffix; hidden ones are not counted


def refused(name: str, reason: str) -> PhotoFile:
    """A photo that is listed only to be counted and named in rejected.jsonl; it is never opened."""
    return PhotoFile(as_text(name), reason, -1, "refused")


def is_hidden(name: str) -> bool:
    """Whether any part of a path begins with a dot, or is of a system's own, as `@eaDir` and `Thumbs.db`."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return any(part.startswith(".") or part.lower() in _SYSTEM for part in parts)


def is_photo(name: str, passed_over: Counter[str]) -> bool:
    """Whether a path ends as photos do, in any letter case, and is not hidden; counts files of other formats."""
    if is_hidden(name):
        return False
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in SUFFIXES:
        passed_over[suffix or "without suffix"] += 1
    return suffix in SUFFIXES


def as_text(name: str) -> str:
    """The name as text that can be stored: each byte that is no UTF-8 becomes a backslash escape."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def of_bucket(folder: str, sizes: dict[str, int]) -> Listing:
    """The photos among objects of a bucket's folder, given by their sizes and paths within it, as `list_folder`."""
    passed_over: Counter[str] = Counter()
    names = [name for name in sizes if is_photo(name, passed_over)]
    return Listing([PhotoFile(name, f"{folder}/{name}", sizes[name]) for name in names], passed_over)


def list_folder(folder: Path | str) -> Listing:
    """Photos of a folder and all folders below it, by suffix, unsorted; hidden files and folders are left out.

    Links are followed, but each real folder is listed once, under the first way to it by name. A folder that cannot be
    listed, and a name of a photo that is no file (a pipe, a socket), are `refused`.

    Raises UserError: a bucket without rights; TransientError: one that cannot be reached.
    """
    if is_bucket(folder):
        sizes = {name: entry.size for name, entry in entries(at(folder), below=True).items()}
        return of_bucket(str(folder), sizes)
    photos, passed_over = [], Counter()
    visited: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        photos.append(refused(os.path.relpath(error.filename, folder), f"unreadable folder: {error.strerror}"))

    for below, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(below)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for path in (os.path.join(below, name) for name in files if is_photo(name, passed_over)):
            name = path[len(os.path.join(folder, "")) :]
            try:
                status = os.stat(path)
            except OSError:  # a broken link, or one that leads to itself: opening it gives the reason
                photos.append(PhotoFile(as_text(name), path, -1))
            else:
                good = stat.S_ISREG(status.st_mode)
                photos.append(
                    PhotoFile(as_text(name), path, status.st_size) if good else refused(name, "not a regular file")
                )
    return Listing(photos, passed_over)
