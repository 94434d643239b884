"""Masks of annotated objects over their own boxes, as bits."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from pycocotools import mask as rle


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
    return rle.decode(rle.merge(rle.frPyObjects(flat, cells, cells)))


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
    points: Float[np.ndarray, "P 2"],
    num_points: Int[np.ndarray, " Q"],
    owners: Int[np.ndarray, " Q"],
    cells: int,
) -> UInt8[np.ndarray, "G cells cells/8"]:
    """Masks of the chosen objects as bits; `points` to `owners` are `records.Polygons`, in the unit of the boxes."""
    polygons = np.split(points.astype(np.float64), np.cumsum(num_points)[:-1])
    masks = [
        rasterise([polygons[place] for place in np.flatnonzero(owners == one)], boxes[one].astype(np.float64), cells)
        for one in chosen
    ]
    return np.packbits(np.array(masks, np.uint8).reshape(-1, cells, cells), axis=-1)
