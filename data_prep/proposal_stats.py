"""Statistics of a data set's proposals: counts per photo, summed over a shard and over the data set.

All counts are integers, so their sums do not depend on the order of the work.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from univip_jax.data import boxes

# Lower edges of the histograms; the last bin is open.
SIDE_EDGES_PX = (0, 64, 96, 128, 160, 192, 256, 320, 384, 448, 512, 640)  # square root of a box's area
ASPECT_EDGES = (0, 0.5, 0.67, 0.8, 1.25, 1.5, 2)  # width / height
BOX_EDGES = (0, 1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96)  # boxes per photo
COVERED_EDGES = tuple(range(0, 100, 10))  # per cent of the photo
FEW = (2, 4, 8)  # K of UniVIP Table 8c
RECALL_IOU, RECALL_MIN_SIDE_PX = 0.5, 64
_GRID = 64  # coverage is counted in 64 x 64 cells per photo
_ROUNDING_PX = 0.01  # boxes are stored as float32 fractions


class Counts(NamedTuple):
    """One photo."""

    num_boxes: int
    covered: int  # cells of 64 x 64 whose centre lies in a box of at most half the photo's area
    sides: np.ndarray  # boxes by SIDE_EDGES_PX
    aspects: np.ndarray  # boxes by ASPECT_EDGES
    num_objects: int  # annotated, with both sides of at least 64 px
    num_found: int  # objects among these that have a box with an IoU of at least 0.5


def of_photo(proposals: Float[np.ndarray, "N 4"], objects: Float[np.ndarray, "M 4"], height: int, width: int) -> Counts:
    """Counts of one photo.

    Args:
        proposals: boxes yxyx in [0, 1].
        objects: annotated boxes yxyx in [0, 1], without crowds.
        height, width: of the photo, px.
    """
    sides_px = (proposals[:, 2:] - proposals[:, :2]).astype(np.float64) * [height, width]
    large = ((objects[:, 2:] - objects[:, :2]) * [height, width] >= RECALL_MIN_SIDE_PX - _ROUNDING_PX).all(axis=-1)
    found = boxes.pairwise_iou(objects[large], proposals).max(axis=-1, initial=0) >= RECALL_IOU
    return Counts(
        len(proposals),
        _covered(proposals),
        _histogram(np.sqrt(sides_px.prod(axis=-1)) + _ROUNDING_PX, SIDE_EDGES_PX),
        _histogram(sides_px[:, 1] / np.maximum(sides_px[:, 0], _ROUNDING_PX), ASPECT_EDGES),
        int(large.sum()),
        int(found.sum()),
    )


def of_shard(photos: Sequence[Counts]) -> dict[str, Any]:
    """The counts of a shard's photos, as its sidecar stores them."""
    return {
        "num_boxes": [photo.num_boxes for photo in photos],
        "covered": [photo.covered for photo in photos],
        "sides": sum((photo.sides for photo in photos), np.zeros(len(SIDE_EDGES_PX), int)).tolist(),
        "aspects": sum((photo.aspects for photo in photos), np.zeros(len(ASPECT_EDGES), int)).tolist(),
        "num_objects": sum(photo.num_objects for photo in photos),
        "num_found": sum(photo.num_found for photo in photos),
    }


def of_dataset(shards: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The statistics of a data set, as the manifest stores them; at least one shard must hold a photo."""
    shards = [shard for shard in shards if shard["num_boxes"]]
    num_boxes = np.concatenate([shard["num_boxes"] for shard in shards])
    covered = np.concatenate([shard["covered"] for shard in shards]) / _GRID**2
    num_objects, num_found = (sum(shard[key] for shard in shards) for key in ("num_objects", "num_found"))
    return {
        "mean": round(float(num_boxes.mean()), 3),
        "min": int(num_boxes.min()),
        "max": int(num_boxes.max()),
        **{f"share_below_{few}": round(float((num_boxes < few).mean()), 4) for few in FEW},
        "covered": round(float(covered.mean()), 4),
        "boxes_a_photo": _named(BOX_EDGES, _histogram(num_boxes, BOX_EDGES)),
        "sides_px": _named(SIDE_EDGES_PX, np.sum([shard["sides"] for shard in shards], axis=0)),
        "aspects": _named(ASPECT_EDGES, np.sum([shard["aspects"] for shard in shards], axis=0)),
        "covered_percent": _named(COVERED_EDGES, _histogram(100 * covered, COVERED_EDGES)),
        "num_objects": num_objects,
        "num_found": num_found,
        "recall": round(num_found / num_objects, 4) if num_objects else None,
    }


def lines(stats: dict[str, Any]) -> list[str]:
    """The statistics of a data set in words."""
    few = ", ".join(f"{stats[f'share_below_{few}']:.1%} have fewer than {few}" for few in FEW)
    words = [
        f"boxes per photo: mean {stats['mean']:.1f}, {stats['min']} to {stats['max']}; of the photos, {few}",
        f"share of a photo that boxes of at most half its area cover: mean {stats['covered']:.1%}",
        f"side of a box (root of its area), px: {_shares(stats['sides_px'])}",
        f"width / height of a box: {_shares(stats['aspects'])}",
    ]
    if stats["recall"] is not None:
        words.append(
            f"recall: {stats['num_found']} of {stats['num_objects']} annotated objects (sides >= "
            f"{RECALL_MIN_SIDE_PX} px, no crowds) have a box of IoU >= {RECALL_IOU}: {stats['recall']:.3f}"
        )
    return words


def _covered(proposals: np.ndarray) -> int:
    """Cells covered, without large boxes: a box of the whole photo, common in selective search, would hide the rest."""
    smaller = proposals[boxes.areas(proposals) <= 0.5].astype(np.float64)
    first, last = np.split(np.ceil(smaller * _GRID - 0.5).astype(int), 2, axis=1)
    cells = np.zeros([_GRID, _GRID], bool)
    for (y0, x0), (y1, x1) in zip(first, last, strict=True):
        cells[y0:y1, x0:x1] = True
    return int(cells.sum())


def _histogram(values: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Int [len(edges)]: the number of values from each edge up to the next; the last bin has no end."""
    return np.bincount(np.searchsorted(edges, values, side="right") - 1, minlength=len(edges))


def _named(edges: Sequence[float], counts: np.ndarray) -> dict[str, Any]:
    return {"from": list(edges), "counts": [int(count) for count in counts]}


def _shares(histogram: dict[str, Any]) -> str:
    """The histogram in words; bins of less than half a per cent are left out."""
    total = max(1, sum(histogram["counts"]))
    bounds = [*histogram["from"], None]
    spans = [
        f"{share:.0%} from {low:g}" if high is None else f"{share:.0%} in {low:g}-{high:g}"
        for low, high, count in zip(bounds, bounds[1:], histogram["counts"], strict=False)
        if (share := count / total) >= 0.005
    ]
    return ", ".join(spans) or "no boxes"
