"""Masks of annotated objects over their own boxes, as bits."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from pycocotools import mask as rle

from univip_jax.data.annotated import Polygons


def rasterise(
    polygons: Sequence[Float[np.ndarray, "p 2"]], box: Float[np.ndarray, "4"], cells: int
) -> UInt8[np.ndarray, "cells cells"]:
    """1 where one of the polygons covers a cell of a grid of `cells` x `cells` over a box, by COCO's rule.

    Args:
      polygons: corners yx, at least 3 each, in the unit of the box.
      box: yxyx, with an area.
    """
    scale = cells / (box[2:] - box[:2])
    flat = [((polygon - box[:2]) * scale)[:, ::-1].ravel().astype(np.float64).tolist() for polygon in polygons]
    if not flat:
        return np.zeros([cells, cells], np.uint8)
    return rle.decode([rle.merge(rle.frPyObjects(flat, cells, cells))])[..., 0]


def over_box(
    mask: UInt8[np.ndarray, "H W"], box: Float[np.ndarray, "4"], cells: int
) -> UInt8[np.ndarray, "cells cells"]:
    """A mask of a whole photo at the centres of a grid over a box (yxyx, px); 0 outside the photo."""
    places = []
    for start, stop, length in zip(box[:2], box[2:], mask.shape, strict=True):
        place = np.floor(start + (np.arange(cells) + 0.5) / cells * (stop - start)).astype(int)
        places.append((np.clip(place, 0, length - 1), (place >= 0) & (place < length)))
    (rows, row_inside), (columns, column_inside) = places
    return mask[np.ix_(rows, columns)] * np.outer(row_inside, column_inside).astype(np.uint8)


def object_masks(
    boxes: Float[np.ndarray, "M 4"],
    chosen: Int[np.ndarray, " G"],
    polygons: Polygons,
    runs: Sequence[bytes],
    frame: tuple[int, int],
    cells: int,
) -> UInt8[np.ndarray, "G cells cells/8"]:
    """Masks of the chosen objects as bits, 0 for those without an outline.

    Args:
      boxes: yxyx in [0, 1], as the polygons.
      runs: of each object, COCO's compressed run lengths in a frame of (height, width) px; empty: it has none.
    """
    outlines = np.split(polygons.points.astype(np.float64), np.cumsum(polygons.num_points)[:-1])
    masks = []
    for one in chosen:
        box = boxes[one].astype(np.float64)
        if runs[one]:
            mask = rle.decode([{"size": list(frame), "counts": runs[one]}])[..., 0]
            masks.append(over_box(mask, box * np.tile(frame, 2), cells))
        else:
            masks.append(rasterise([outlines[place] for place in np.flatnonzero(polygons.objects == one)], box, cells))
    return np.packbits(np.array(masks, np.uint8).reshape(-1, cells, cells), axis=-1)
