"""Statistics of a data set's photos: which are equal, which are uniform, and how small they are.

Of the pixels as stored, decoded by Pillow. All counts are integers, so the work's order does not matter.
"""

import hashlib
import heapq
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from univip_jax.data.photos import FORMATS

_UNIFORM_STD = 2  # of 255: a uniform photo's colours vary less; JPEG adds about 1, a clear sky has more
# All pixels would take a sixth of the time that a photo without search takes. Below 128 px all rows are looked at,
# above it every second to eighth: what differs in a JPEG is 8 px high, at least.
_LEAST_ROWS, _MOST_STEP = 64, 8
_NUM_NAMED = 3


class Looks(NamedTuple):
    """One photo."""

    image_id: str
    digest: str  # 16 hex digits of size and pixels (of a large photo, of some rows), whatever the file
    is_uniform: bool  # the std of each colour is below 2 of 255
    shorter_side: int  # px


def of_photo(image_id: str, pixels: UInt8[np.ndarray, "H W 3"]) -> Looks:
    """The looks of one photo."""
    height, width = pixels.shape[:2]
    rows = pixels[:: min(_MOST_STEP, max(1, height // _LEAST_ROWS))]
    digest = hashlib.sha256(f"{height} {width} ".encode() + rows.tobytes())
    # A pattern may hide between the rows: the rare photo whose rows are uniform is looked at whole.
    is_uniform = all(cv2.meanStdDev(some)[1].max() < _UNIFORM_STD for some in (rows, pixels))
    return Looks(image_id, digest.hexdigest()[:16], is_uniform, min(height, width))


def pixels_of(encoded: bytes) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a stored JPEG or PNG as `of_photo` wants them; TensorFlow decodes a JPEG slightly differently."""
    return np.asarray(Image.open(io.BytesIO(encoded), formats=FORMATS).convert("RGB"))


def of_shard(photos: Sequence[Looks]) -> dict[str, list]:
    """The looks of a shard's photos, as its sidecar stores them: a list per field."""
    return {name: [getattr(photo, name) for photo in photos] for name in Looks._fields}


def of_dataset(shards: Iterable[dict[str, list]]) -> dict[str, Any]:
    """The statistics of a data set, as the manifest stores them; at least one shard must hold a photo.

    Returns:
        num_distinct: photos without their copies; num_copies: photos that equal another one; largest_group: the most
        that equal each other; its first ids; num_uniform and their first ids; shorter_sides_px: photos by their
        shorter side, px; the ids of the smallest.
    """
    photos = [Looks(*fields) for shard in shards for fields in zip(*(shard[n] for n in Looks._fields), strict=True)]
    groups = Counter(photo.digest for photo in photos)
    digest, largest = max(groups.items(), key=lambda group: group[1])  # the first of equals
    sides = Counter(photo.shorter_side for photo in photos)
    return {
        "num_distinct": len(groups),
        "num_copies": sum(number for number in groups.values() if number > 1),
        "largest_group": largest,
        "largest_group_first": _first([photo for photo in photos if photo.digest == digest]) if largest > 1 else [],
        "num_uniform": sum(photo.is_uniform for photo in photos),
        "uniform_first": _first([photo for photo in photos if photo.is_uniform]),
        "shorter_sides_px": {str(side): number for side, number in sorted(sides.items())},
        "smallest_first": _first(heapq.nsmallest(_NUM_NAMED, photos, key=lambda photo: photo.shorter_side)),
    }


def _first(photos: Sequence[Looks]) -> list[str]:
    return [photo.image_id for photo in photos[:_NUM_NAMED]]
