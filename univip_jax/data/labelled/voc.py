"""PASCAL VOC's own layout: which classes are in each photo of a split, by the objects annotated in it.

`VOCdevkit/VOC2007` holds `ImageSets/Main/trainval.txt` (ids, one a line), `Annotations/ID.xml`, `JPEGImages/ID.jpg`
(or another suffix of photos).
"""

import errno
import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import UserError, shorten
from univip_jax.common.objects import entries, read_all
from univip_jax.data.photos import SUFFIXES

_AT_ONCE = 256  # annotations that are read from a bucket
PRESENT, DIFFICULT, ABSENT = 1, 0, -1  # as in VOC's own lists of each class


class VocSplit(NamedTuple):
    """Photos of a split in the order of its list, with a label for each class."""

    paths: list[str]
    labels: np.ndarray  # int8 [N, C]: PRESENT, ABSENT, or DIFFICULT: each object of the class is annotated as difficult
    classes: tuple[str, ...]  # sorted: the names of all objects of the split
    sizes: list[int]  # bytes


class _NoDocumentType(ET.TreeBuilder):
    """Refuses what could declare entities, which expand without bound; VOC's annotations have none."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type")


def parse_annotation(contents: bytes) -> dict[str, bool]:
    """The classes of the objects in a photo, and whether all objects of the class are difficult.

    Raises ValueError where the contents are no annotation.
    """
    try:
        root = ET.fromstring(contents, parser=ET.XMLParser(target=_NoDocumentType()))
    except ET.ParseError as error:
        raise ValueError(f"no XML: {error}") from error
    except LookupError as error:
        raise ValueError(f"no XML that can be read: {error}") from error
    found: dict[str, bool] = {}
    for annotated in root.findall("object"):
        name = annotated.findtext("name", "").strip()
        if not name:
            raise ValueError("an object has no name")
        found[name] = found.get(name, True) and annotated.findtext("difficult", "0").strip() == "1"
    return found


def _photos(folder: Path) -> dict[str, tuple[Path, int]]:
    """The photos of a folder, and their bytes, by stem; of several with one, that whose suffix leads in `SUFFIXES`."""
    if is_bucket(folder):
        files = [(folder / name, entry.size) for name, entry in sorted(entries(folder).items())]
    else:
        there = sorted(folder.iterdir()) if folder.is_dir() else []
        files = [(path, path.stat().st_size) for path in there if path.is_file()]
    found = [file for file in files if file[0].suffix.lower() in SUFFIXES]
    found.sort(key=lambda file: SUFFIXES.index(file[0].suffix.lower()))
    return {file[0].stem: file for file in reversed(found)}


def _contents(paths: list[Path]) -> Iterator[bytes | OSError]:
    """What each file holds, or why it cannot be read."""
    for start in range(0, len(paths), _AT_ONCE if is_bucket(paths[0]) else 1):
        if is_bucket(paths[0]):
            missing = errno.ENOENT, os.strerror(errno.ENOENT)
            group = paths[start : start + _AT_ONCE]
            found = zip(group, read_all(group), strict=True)
            yield from (FileNotFoundError(*missing, str(path)) if data is None else data for path, data in found)
            continue
        try:
            yield paths[start].read_bytes()
        except OSError as error:
            yield error


def _ids(path: Path) -> list[str]:
    """The ids of a list; a second column, as in VOC's lists of each class, is -1 where the class is absent.

    Raises OSError or ValueError: it cannot be read. UserError: an id stands in it twice.
    """
    lines = [line.split() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    if bad := next((line for line in lines if line[1:] not in ([], ["-1"], ["0"], ["1"])), None):
        raise ValueError(f"a line is an id, or an id with -1, 0 or 1; found {' '.join(bad)[:60]!r}")
    ids = [line[0] for line in lines if line[1:] != [str(ABSENT)]]
    if repeated := [name for name, number in Counter(ids).items() if number > 1]:
        raise UserError(f"{path} lists {len(repeated)} ids more than once: {shorten(repeated)}; list each once")
    return ids


def read_voc(root: Path, split: str) -> VocSplit:
    """The photos that `ImageSets/Main/SPLIT.txt` lists.

    Raises UserError where there is no such list, or a photo or an annotation of it is missing or cannot be read.
    """
    lists = root / "ImageSets" / "Main"
    try:
        ids = _ids(lists / f"{split}.txt")
    except (OSError, ValueError) as error:
        known = ", ".join(sorted(path.stem for path in lists.glob("*.txt") if "_" not in path.stem)) or "none"
        raise UserError(
            f"{lists / split}.txt, the list of a VOC split, cannot be read "
            f"({getattr(error, 'strerror', error)}); found: {known}"
        ) from error
    photos, used, objects, bad = _photos(root / "JPEGImages"), [], [], []
    annotations = _contents([root / "Annotations" / f"{name}.xml" for name in ids])
    shown = tqdm(ids, unit="annotation", desc=f"annotations of {root}:{split}")
    for name, contents in zip(shown, annotations, strict=True):
        try:
            if (photo := photos.get(name)) is None:
                raise ValueError(f"{root / 'JPEGImages' / name}.jpg is missing")
            if isinstance(contents, OSError):
                raise contents
            objects.append(parse_annotation(contents))
            used.append(photo)
        except (OSError, ValueError) as error:
            bad.append(f"{name} ({error})")
    if bad:
        raise UserError(
            f"{len(bad)} of the {len(ids)} photos of {root}:{split} cannot be used: {shorten(bad)}; restore them"
        )
    classes = tuple(sorted({name for found in objects for name in found}))
    labels = np.full((len(used), len(classes)), ABSENT, np.int8)
    for row, found in zip(labels, objects, strict=True):
        for name, is_difficult in found.items():
            row[classes.index(name)] = DIFFICULT if is_difficult else PRESENT
    return VocSplit([str(path) for path, _ in used], labels, classes, [size for _, size in used])
