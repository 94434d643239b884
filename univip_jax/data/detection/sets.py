"""A prepared data set as a detector needs it: its categories, and of each photo the size and the number of objects."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from univip_jax.common.errors import UserError
from univip_jax.data.records import Dataset, open_dataset

_COUNTS = ("height", "width", "num_objects", "num_masks", "num_crowds")


class Category(NamedTuple):
    """One of a json's categories."""

    id: int
    name: str


class DetectionSet(NamedTuple):
    """An opened set. Class k of a detector is `categories[k]`."""

    dataset: Dataset
    categories: tuple[Category, ...]  # by id
    sizes: Int[np.ndarray, "N 2"]  # height and width of the photos as stored, px
    num_objects: Int[np.ndarray, " N"]  # annotated ones that are no crowds
    num_masks: Int[np.ndarray, " N"]  # of these, with an outline
    num_crowds: Int[np.ndarray, " N"]

    def describe(self) -> dict:
        """The set for a results file."""
        return {
            "set": str(self.dataset.root),
            "fingerprint": self.dataset.fingerprint,
            "photos": self.dataset.num_records,
            "objects": int(self.num_objects.sum()),
            "crowds": int(self.num_crowds.sum()),
        }


def open_set(root: Path | str) -> DetectionSet:
    """Opens a data set that `data_prep --annotations` made.

    Raises UserError: it cannot be opened, holds no annotated objects, or was prepared by an older version.
    """
    dataset = open_dataset(root)
    categories = tuple(sorted(Category(row["id"], row["name"]) for row in dataset.manifest.get("categories", ())))
    again = "python -m data_prep --images=DIR --annotations=COCO.json --proposals=none --out=NEW_DIR"
    if not categories:
        older = "was prepared by an older version" if "categories" not in dataset.manifest else "names no categories"
        annotated = dataset.manifest["settings"].get("annotations_sha256")
        what = older if annotated else "was prepared without annotations"
        raise UserError(f"{root} {what}, and a detector needs its categories and objects: prepare it again: {again}")
    if len({category.name for category in categories}) < len(categories):
        raise UserError(f"{root} has two categories of one name: give each its own in the json, then: {again}")
    columns: dict[str, list[int]] = {name: [] for name in _COUNTS}
    for shard in dataset.shards:
        if any(name not in shard.photos for name in _COUNTS):
            raise UserError(f"{shard.path.with_suffix('.json')} does not say how large its photos are: {again}")
        for name in _COUNTS:
            columns[name] += shard.photos[name]
    height, width, *counted = (np.array(columns[name], np.int64) for name in _COUNTS)
    if not counted[0].any():
        crowds = f" but {counted[2].sum()} crowds, which teach nothing" if counted[2].any() else ""
        raise UserError(f"{root} holds no annotated object{crowds}: give data_prep the json that belongs to its photos")
    return DetectionSet(dataset, categories, np.stack([height, width], axis=-1), *counted)


def require_masks(photos: DetectionSet) -> None:
    """Raises UserError where no object has an outline."""
    if not photos.num_masks.any():
        raise UserError(
            f"none of the {photos.num_objects.sum()} objects in {photos.dataset.root} has a mask: train on boxes alone "
            "by --config.detector.masks=False"
        )


def require_equal_categories(trained: tuple[Category, ...], test: DetectionSet) -> None:
    """Raises UserError where a test set has other categories, by id and name, than a detector was trained on."""
    for mine, other in (trained, test.categories), (test.categories, trained):
        if missing := sorted(set(mine) - set(other)):
            whose = "the detector" if mine is trained else str(test.dataset.root)
            raise UserError(
                f"{test.dataset.root} has other categories than the detector: {missing[0].name!r} (id "
                f"{missing[0].id}) is only one of {whose}'s; prepare both sets from jsons with the same categories"
            )
