"""Masks in regions against pycocotools, which rasterises the outlines in the region itself."""

import jax
import numpy as np
from pycocotools import mask as rle

from univip_jax.data.detection.masks import over_box, rasterise
from univip_jax.detection.targets import mask_targets

SIDE, CELLS = 28, 112
compiled = jax.jit(mask_targets, static_argnums=3)


def star(rng: np.random.Generator) -> np.ndarray:
    """An outline of 5 to 20 corners, yx px, around a place."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 21)))
    radii = rng.uniform(0.4, 1, len(angles)) * rng.uniform(8, 120)
    return rng.uniform(150, 250, 2) + radii[:, None] * np.stack([np.sin(angles), np.cos(angles)], 1)


def in_region(outlines: list[np.ndarray], region: np.ndarray) -> np.ndarray:
    """Detectron2's targets: the outlines less the region's origin, scaled to its grid."""
    scale = SIDE / (region[2:] - region[:2])
    flat = [((outline - region[:2]) * scale)[:, ::-1].ravel().tolist() for outline in outlines]
    return rle.decode([rle.merge(rle.frPyObjects(flat, SIDE, SIDE))])[..., 0].astype(bool)


def test_masks_in_regions_are_pycocotools():
    """100 objects of one or two outlines, in regions whose corners are up to a third of a side beside the box's."""
    rng = np.random.default_rng(0)
    regions, boxes, masks, expected = [], [], [], []
    for number in range(100):
        outlines = [star(rng) for _ in range(1 + number % 2)]
        corners = np.concatenate(outlines)
        box = np.concatenate([corners.min(0), corners.max(0)])
        region = box + np.tile(box[2:] - box[:2], 2) * rng.uniform(-1 / 3, 1 / 3, 4)
        boxes.append(box)
        regions.append(region)
        masks.append(rasterise(outlines, box, CELLS))
        expected.append(in_region(outlines, region))
    arrays = (np.array(values, np.float32) for values in (regions, boxes, masks))
    agree = (np.asarray(compiled(*arrays, SIDE)) == expected).mean((1, 2))
    assert agree.mean() > 0.98 and agree.min() > 0.95
    assert 0.2 < np.mean(expected) < 0.8


def test_a_rectangle_in_twice_its_box():
    """It fills the middle, to the cell."""
    box, region = np.array([[40, 60, 80, 160]], np.float32), np.array([[20, 10, 100, 210]], np.float32)
    expected = np.zeros([1, 28, 28], bool)
    expected[:, 7:21, 7:21] = True
    np.testing.assert_array_equal(compiled(region, box, np.ones([1, CELLS, CELLS], np.float32), SIDE), expected)


def test_a_region_beside_the_object_is_empty():
    masks = compiled(np.float32([[0, 0, 10, 10]]), np.float32([[20, 20, 30, 30]]), np.ones([1, 8, 8], np.float32), SIDE)
    assert not masks.any()


def test_a_mask_of_a_photo_over_a_box():
    """At whole px the part itself; beyond the photo 0; enlarged, each px becomes equal cells."""
    mask = (np.random.default_rng(0).random((20, 30)) < 0.5).astype(np.uint8)
    np.testing.assert_array_equal(over_box(mask, np.array([4.0, 6, 12, 14]), 8), mask[4:12, 6:14])
    np.testing.assert_array_equal(
        over_box(mask, np.array([4.0, 6, 12, 14]), 16), mask[4:12, 6:14].repeat(2, 0).repeat(2, 1)
    )
    beyond = over_box(mask, np.array([-4.0, 26, 4, 34]), 8)
    np.testing.assert_array_equal(beyond, np.pad(mask[:4, 26:], [(4, 0), (0, 4)]))
