"""The labelled part of a training set in semi-supervised learning: from a list, as SimCLR's, or drawn."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from univip_jax.common.errors import UserError, shorten
from univip_jax.common.files import read_bytes
from univip_jax.data.index import permutation
from univip_jax.data.labelled.sets import Labelled, choose, of_paths
from univip_jax.data.photos.listing import as_text

_READ = 16_384  # paths read at once


def named_subset(labelled: Labelled, file: Path) -> Labelled:
    """The photos of class folders that a text file names, one per line: by file name, or by path within the folder.

    SimCLR's `1percent.txt` and `10percent.txt` hold lines such as `n01440764_10026.JPEG`.

    Raises UserError where the set is no folder, or the file cannot be read, names a photo twice, names one that is
    missing, gives a file name that several photos have, or leaves a class without photos.
    """
    if labelled.is_encoded:
        raise UserError(f"{labelled.name} is no folder: its photos have no names for {file} to list; use its splits")
    try:
        names = [line.strip() for line in read_bytes(file).decode().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.subset={file} must be a text file with one name per line: {error}") from error
    paths, labels = _listing(labelled)
    positions = _positions(labelled, paths)
    unknown = [name for name in names if name not in positions]
    _refuse(unknown, f"{file} names", f"photos that are not in {labelled.name}; correct the list or name its folder")
    shared = [name for name in names if len(positions[name]) > 1]
    _refuse(shared, f"{file} gives", f"file names that several photos of {labelled.name} have; give paths within it")
    times = Counter(positions[name][0] for name in names)
    repeated = [paths[position] for position, count in times.items() if count > 1]
    _refuse(repeated, f"{file} names", "photos more than once; name each once")
    chosen = np.zeros(labelled.num_images, bool)
    chosen[list(times)] = True
    missing = np.setdiff1d(np.arange(len(labelled.classes)), labels[chosen])
    empty = [labelled.classes[label] for label in missing]
    _refuse(empty, f"{file} names no photo of", f"of the classes of {labelled.name}; add some")
    return _listed(choose(labelled, chosen, f"{labelled.name} by {file.name}"))


def drawn_subset(labelled: Labelled, percent: float, seed: int) -> Labelled:
    """`percent` of each class, rounded, and at least one photo; `seed` draws them.

    A TFDS set is read once for its labels, and whole in each epoch.
    """
    labels = _listing(labelled)[1] if not labelled.is_encoded else _labels(labelled)
    order = permutation(labelled.num_images, seed, epoch=0)
    chosen = np.zeros(labelled.num_images, bool)
    for label in range(len(labelled.classes)):
        of_class = order[labels[order] == label]
        chosen[of_class[: max(1, round(len(of_class) * percent / 100))]] = True
    subset = choose(labelled, chosen, f"{labelled.name}, {percent:g} % of each class drawn by seed {seed}")
    subset = subset._replace(drawn_from=labelled.describe())
    return subset if labelled.is_encoded else _listed(subset)


def _labels(labelled: Labelled) -> np.ndarray:
    """Labels [num_images] of a set of encoded photos."""
    batches = labelled.examples.map(lambda _, label: label).batch(_READ)
    return np.concatenate(list(batches.as_numpy_iterator()))


def _listing(labelled: Labelled) -> tuple[list[str], np.ndarray]:
    """Paths and labels [num_images] of class folders."""
    parts = list(labelled.examples.batch(_READ).as_numpy_iterator())
    return [os.fsdecode(path) for paths, _ in parts for path in paths], np.concatenate([labels for _, labels in parts])


def _listed(subset: Labelled) -> Labelled:
    """The same set, without a pass over the whole listing of the folder in each epoch."""
    return subset._replace(examples=of_paths(*_listing(subset)))


def _positions(labelled: Labelled, paths: list[str]) -> dict[str, list[int]]:
    """Positions in the set by file name, and by path within the folder."""
    positions = {}
    for position, path in enumerate(map(Path, paths)):
        for name in {path.name, path.relative_to(labelled.name).as_posix()}:
            positions.setdefault(name, []).append(position)
    return positions


def _refuse(names: list[str], subject: str, predicate: str) -> None:
    """Raises UserError with the number of names and the first few, if there are any."""
    if names:
        raise UserError(f"{subject} {len(names)} {predicate} ({shorten([as_text(name) for name in names])})")
