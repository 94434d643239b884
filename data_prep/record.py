"""One photo to one record, a pure function of its bytes, its annotations and the settings."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from data_prep import annotations, filters, selective_search
from data_prep.annotations import Annotations
from univip_jax.data import boxes, records
from univip_jax.data.photos import decode as photos
from univip_jax.data.photos.listing import Objects, Opened, PhotoFile
from univip_jax.data.photos.sources import open_photo

OBJECTS, CANDIDATES = "objects_outside", "proposals_outside"  # keys of sidecars and manifests


class Settings(NamedTuple):
    """How a record's proposals are made, and in which size the photo is stored."""

    proposals: str  # selective_search | naive | annotated | none | import
    search_max_side: int  # px, 0 = full size
    min_side: int  # px of the photo as stored
    max_boxes: int
    search_mode: str = "fast"  # fast | quality
    max_side: int = 0  # px of the photo as stored, 0 = no limit
    max_megapixels: int = photos.MAX_MEGAPIXELS  # of a photo as decoded

    def described(self) -> dict[str, str | int]:
        """The settings for hashes and manifests. Younger ones appear only where they differ from their defaults."""
        young = {"max_megapixels": photos.MAX_MEGAPIXELS}
        return {name: value for name, value in self._asdict().items() if young.get(name) != value}


class Made(NamedTuple):
    """A photo's record, and what is known of the photo beside it."""

    record: records.Record
    pixels: UInt8[np.ndarray, "H W 3"]  # as stored
    outside: dict[str, int]  # boxes left out because they lie outside the photo, by OBJECTS and CANDIDATES


def make_record(
    photo: PhotoFile,
    annotated: Annotations | None,
    settings: Settings,
    imported: Annotations | None = None,
    opened: Opened | None = None,
) -> Made:
    """Reads a photo and proposes boxes for it.

    Args:
        photo: the photo.
        annotated: its annotations in a json; None: those of its source, if it has any.
        settings: which proposals, and what is stored.
        imported: candidates for `import`, the best first; None: there are none.
        opened: its bytes, where they are read already.

    Raises:
        photos.Rejected: the photo cannot be used.
        UserError: the archive or the TFDS data set that holds the photo cannot be read.
    """
    opened = opened or open_photo(photo)
    stored = photos.read_photo(opened.encoded, settings.max_side, settings.max_megapixels)
    height, width = stored.pixels.shape[:2]
    objects, outside = Objects(), {}
    if annotated is not None:
        objects = annotations.in_photo(annotated, stored)
        outside[OBJECTS] = _num_large(annotated.boxes_xywh_px[:, 2:]) - len(objects.boxes)
    elif opened.objects is not None:
        objects = annotations.turned(opened.objects, stored.orientation)
        outside[OBJECTS] = _num_large(opened.objects.boxes[:, 2:] - opened.objects.boxes[:, :2]) - len(objects.boxes)
    if settings.proposals == "annotated":
        proposals = objects.boxes[~objects.is_crowd][: settings.max_boxes]
    else:
        candidates = _candidates(stored, imported, settings)
        if settings.proposals == "import" and imported is not None:
            outside[CANDIDATES] = _num_large(imported.boxes_xywh_px[:, 2:]) - len(candidates)
        boxes_yxyx_px = filters.keep(candidates, settings.min_side, settings.max_boxes)
        proposals = boxes.from_yxyx_px(boxes_yxyx_px, height, width)
    record = records.Record(stored.encoded, photo.image_id, height, width, proposals, *objects)
    return Made(record, stored.pixels, {kind: count for kind, count in outside.items() if count})


def _num_large(sizes: np.ndarray) -> int:
    """How many boxes of these sizes [N, 2] have an area: those without one are told where the json is read."""
    return int((sizes > 0).all(axis=-1).sum())


def _candidates(stored: photos.StoredPhoto, imported: Annotations | None, settings: Settings) -> np.ndarray:
    """Candidate boxes yxyx in px, float64 [N, 4]."""
    height, width = stored.pixels.shape[:2]
    if settings.proposals == "import":
        objects = Objects() if imported is None else annotations.in_photo(imported, stored)
        # Rounded: a box of exactly `min_side` stays one after its way through float32.
        return np.round(objects.boxes.astype(np.float64) * [height, width, height, width], 3)
    if settings.proposals == "none" or min(height, width) < settings.min_side:
        return np.zeros([0, 4])
    generator = selective_search.photo_generator(stored.encoded)
    if settings.proposals == "naive":
        return filters.naive_candidates(height, width, settings.min_side, generator)
    try:
        return selective_search.selective_search(
            stored.pixels, settings.search_max_side, generator, settings.search_mode
        )
    except cv2.error as error:
        raise photos.Rejected(f"selective search failed: {error.err}") from error
