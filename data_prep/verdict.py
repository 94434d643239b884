"""What the proposals of a data set are like: counts a photo, added up over a shard and over the data set.

All counts are integers, so their sums do not depend on the order of the work.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from univip_jax.data import boxes

SIDE_EDGES_PX = (
    0,
    64,
    96,
    128,
    160,
    192,
    256,
    320,
    384,
    448,
    512,
    640,
)  # square root of a box's area; the last is open
ASPECT_EDGES = (0, 0.5, 0.67, 0.8, 1.25, 1.5, 2)  # width / height; the last is open
BOX_EDGES = (0, 1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96)  # boxes a photo; the last is open
COVERED_EDGES = tuple(range(0, 100, 10))  # per cent of the photo
FEW = (2, 4, 8)  # K of UniVIP Table 8c
RECALL_IOU, RECALL_MIN_SIDE_PX = 0.5, 64
_GRID = 64  # a photo's coverage is counted in 64 x 64 cells
_ROUNDING_PX = 0.01  # boxes are stored as float32 fractions


class Counts(NamedTuple):
    """One photo."""

    num_boxes: int
    covered: int  # of 64 x 64 cells, those whose centre lies in a box that is not larger than half of the photo
    sides: np.ndarray  # boxes by SIDE_EDGES_PX
    aspects: np.ndarray  # boxes by ASPECT_EDGES
    num_objects: int  # annotated, with both sides of at least 64 px
    num_found: int  # of these, those that a box meets at an IoU of at least 0.5


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
    """The counts of a shard's photos, as its sidecar keeps them."""
    return {
        "num_boxes": [photo.num_boxes for photo in photos],
        "covered": [photo.covered for photo in photos],
        "sides": sum((photo.sides for photo in photos), np.zeros(len(SIDE_EDGES_PX), int)).tolist(),
        "aspects": sum((photo.aspects for photo in photos), np.zeros(len(ASPECT_EDGES), int)).tolist(),
        "num_objects": sum(photo.num_objects for photo in photos),
        "num_found": sum(photo.num_found for photo in photos),
    }


def of_dataset(shards: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The verdict on the proposals, as the manifest keeps it; at least one shard must hold a photo."""
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


def lines(verdict: dict[str, Any]) -> list[str]:
    """The verdict in words."""
    few = ", ".join(f"{verdict[f'share_below_{few}']:.1%} fewer than {few}" for few in FEW)
    said = [
        f"boxes a photo: {verdict['mean']:.1f} in the mean, {verdict['min']} to {verdict['max']}; photos with {few}",
        f"share of a photo that boxes of at most half its size cover: {verdict['covered']:.1%} in the mean",
        f"side of a box (root of its area), px: {_shares(verdict['sides_px'])}",
        f"width / height of a box: {_shares(verdict['aspects'])}",
    ]
    if verdict["recall"] is not None:
        said.append(
            f"recall: {verdict['num_found']} of {verdict['num_objects']} annotated objects (sides >= "
            f"{RECALL_MIN_SIDE_PX} px, no crowds) have a box of IoU >= {RECALL_IOU}: {verdict['recall']:.3f}"
        )
    return said


def _covered(proposals: np.ndarray) -> int:
    """Cells covered; selective search often ends with the whole photo, which would hide what the other boxes miss."""
    smaller = proposals[boxes.areas(proposals) <= 0.5].astype(np.float64)
    first, last = np.split(np.ceil(smaller * _GRID - 0.5).astype(int), 2, axis=1)
    cells = np.zeros([_GRID, _GRID], bool)
    for (y0, x0), (y1, x1) in zip(first, last, strict=True):
        cells[y0:y1, x0:x1] = True
    return int(cells.sum())


def _histogram(values: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Int [len(edges)]: values from each edge on, up to the next; the last without an end."""
    return np.bincount(np.searchsorted(edges, values, side="right") - 1, minlength=len(edges))


def _named(edges: Sequence[float], counts: np.ndarray) -> dict[str, Any]:
    return {"from": list(edges), "counts": [int(count) for count in counts]}


def _shares(histogram: dict[str, Any]) -> str:
    """The histogram in words; ranges of less than half a per cent are left out."""
    total = max(1, sum(histogram["counts"]))
    bounds = [*histogram["from"], None]
    spans = [
        f"{share:.0%} from {low:g}" if high is None else f"{share:.0%} in {low:g}-{high:g}"
        for low, high, count in zip(bounds, bounds[1:], histogram["counts"], strict=False)
        if (share := count / total) >= 0.005
    ]
    return ", ".join(spans) or "no boxes"
