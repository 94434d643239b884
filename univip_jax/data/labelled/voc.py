"""PASCAL VOC's own layout: which classes are in each photo of a split, by the objects annotated in it.

`VOCdevkit/VOC2007` holds `ImageSets/Main/trainval.txt` (ids, one a line), `Annotations/ID.xml`, `JPEGImages/ID.jpg`
(or another suffix of photos).
"""

import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from univip_jax.common.errors import UserError, shorten
from univip_jax.data.photos import SUFFIXES

PRESENT, DIFFICULT, ABSENT = 1, 0, -1  # as in VOC's own lists of each class


class VocSplit(NamedTuple):
    """Photos of a split in the order of its list, with a label for each class."""

    paths: list[str]
    labels: np.ndarray  # int8 [N, C]: PRESENT, ABSENT, or DIFFICULT: each object of the class is annotated as difficult
    classes: tuple[str, ...]  # sorted: the names of all objects of the split


class _NoDocumentType(ET.TreeBuilder):
    """Refuses what could declare entities, which expand without bound; VOC's annotations have none."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type")


def read_annotation(path: Path) -> dict[str, bool]:
    """The classes of the objects in a photo, and whether all objects of the class are difficult.

    Raises ValueError or OSError where the file is no annotation.
    """
    try:
        root = ET.fromstring(path.read_bytes(), parser=ET.XMLParser(target=_NoDocumentType()))
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


def _photos(folder: Path) -> dict[str, Path]:
    """The photos of a folder by stem; of several with one stem, the one whose suffix comes first in `SUFFIXES`."""
    if not folder.is_dir():
        return {}
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and path.is_file()]
    found.sort(key=lambda path: SUFFIXES.index(path.suffix.lower()))
    return {path.stem: path for path in reversed(found)}


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
    photos, paths, objects, bad = _photos(root / "JPEGImages"), [], [], []
    for name in tqdm(ids, unit="annotation", desc=f"annotations of {root}:{split}"):
        try:
            if (photo := photos.get(name)) is None:
                raise ValueError(f"{root / 'JPEGImages' / name}.jpg is missing")
            objects.append(read_annotation(root / "Annotations" / f"{name}.xml"))
            paths.append(str(photo))
        except (OSError, ValueError) as error:
            bad.append(f"{name} ({error})")
    if bad:
        raise UserError(
            f"{len(bad)} of the {len(ids)} photos of {root}:{split} cannot be used: {shorten(bad)}; restore them"
        )
    classes = tuple(sorted({name for found in objects for name in found}))
    labels = np.full((len(paths), len(classes)), ABSENT, np.int8)
    for row, found in zip(labels, objects, strict=True):
        for name, is_difficult in found.items():
            row[classes.index(name)] = DIFFICULT if is_difficult else PRESENT
    return VocSplit(paths, labels, classes)
