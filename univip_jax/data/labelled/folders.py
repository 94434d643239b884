"""Class folders: a folder for each class, with its photos in it and below."""

import os
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import UserError, shorten
from univip_jax.common.objects import entries
from univip_jax.data.photos import SUFFIXES
from univip_jax.data.photos.decode import Rejected
from univip_jax.data.photos.listing import Listing, as_text, is_hidden, is_photo, list_folder, of_bucket
from univip_jax.data.photos.sources import open_photo, passed_over_line

_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}


class FolderSplit(NamedTuple):
    """Photos class by class, sorted in each by their paths."""

    paths: list[str]
    labels: np.ndarray  # int64 [N]
    classes: tuple[str, ...]  # sorted
    sizes: list[int]  # bytes


class _Listed(NamedTuple):
    """A folder of class folders."""

    folders: list[Path]  # of the classes, sorted by name
    listings: list[Listing]  # of each
    beside: list[str]  # files in no class folder
    broken: list[str]  # links


def _class(folder: Path) -> str:
    """The class's name, equal for both Unicode forms of one name: macOS writes another than all others."""
    return unicodedata.normalize("NFC", as_text(folder.name))


def _list(root: Path) -> _Listed:
    shown = [path for path in root.iterdir() if not is_hidden(path.name)]
    folders = sorted((path for path in shown if path.is_dir()), key=_class)
    broken = [as_text(path.name) for path in sorted(shown) if path.is_symlink() and not path.exists()]
    beside = [path.name for path in shown if path.is_file()]
    return _Listed(folders, [list_folder(folder) for folder in folders], beside, broken)


def _list_bucket(root: Path) -> _Listed:
    """By one listing of all objects."""
    below: dict[str, dict[str, int]] = {}
    sizes = {name: entry.size for name, entry in entries(root, below=True).items()}
    for name, size in sizes.items():
        folder, slash, rest = name.partition("/")
        if slash and not is_hidden(folder):
            below.setdefault(folder, {})[rest] = size
    folders = sorted((root / name for name in below), key=_class)
    listings = [of_bucket(str(folder), below[folder.name]) for folder in folders]
    return _Listed(folders, listings, [name for name in sizes if "/" not in name], [])


def read_folders(root: Path) -> FolderSplit:
    """The photos of each class folder of `root`, found as `data_prep` finds them; hidden folders are no classes.

    Prints how many files are left out because of their suffix or their place.

    Raises UserError: a class folder holds no photo, or a photo or a folder in it cannot be read, or links put
    one real folder into two classes.
    """
    folders, listings, beside, broken = _list_bucket(root) if is_bucket(root) else _list(root)
    photos, labels, empty, passed_over = [], [], [], Counter()
    bad = [f"{name} (a broken link)" for name in broken]
    classes_of: dict[str, str] = {}  # by real folder
    for label, (folder, listing) in enumerate(zip(folders, listings, strict=True)):
        for below in {os.path.dirname(photo.path) for photo in listing.photos if photo.kind == "file"}:
            real, name = os.path.realpath(below), as_text(folder.name)
            if (other := classes_of.setdefault(real, name)) != name:
                raise UserError(
                    f"{as_text(real)} is in the classes {other} and {name} of {root}, by a link: remove the link, or "
                    "give each class photos of its own"
                )
        passed_over += listing.passed_over
        for photo in listing.photos:
            if photo.num_bytes < 0:  # a broken link, a pipe, a folder that cannot be listed
                try:
                    open_photo(photo)
                except Rejected as error:
                    bad.append(f"{as_text(folder.name)}/{photo.image_id} ({error})")
        if not listing.photos:
            empty.append(as_text(folder.name))
        photos += sorted(listing.photos, key=lambda photo: photo.path)
        labels += [label] * len(listing.photos)
    if empty:
        raise UserError(
            f"{len(empty)} of the {len(folders)} class folders of {root} hold no photo ({' '.join(SUFFIXES)}): "
            f"{shorten(empty)}; fill or remove them"
        )
    if bad:
        raise UserError(f"{len(bad)} photos or folders of {root} cannot be read: {shorten(bad)}; mend or remove them")
    paths = [photo.path for photo in photos]
    if (
        folders
        and {folder.name.lower() for folder in folders} <= _PARTS
        and all(os.sep in os.path.relpath(os.path.dirname(path), str(root)) for path in paths)
    ):
        names = " and ".join(folder.name for folder in folders)
        raise UserError(f"{root} holds {names}, which are parts of a set and no classes: name one, as {folders[0]}")
    if astray := sum(is_photo(name, passed_over) for name in beside):
        print(f"{root}: {astray} photos lie in no class folder and are left out", file=sys.stderr)
    if line := passed_over_line(passed_over):
        print(f"{root}: {line}", file=sys.stderr)
    sizes = [photo.num_bytes for photo in photos]
    return FolderSplit(paths, np.array(labels, np.int64), tuple(map(_class, folders)), sizes)
