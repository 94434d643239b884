"""Boxes against pycocotools and Detectron2's formulas, written out in float64."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools import mask as rle

from univip_jax.detection.boxes import areas, clip, decode, encode, level_of, pairwise_iou


def random_boxes(number: int, seed: int = 0, size: float = 100) -> np.ndarray:
    """float32 yxyx [number, 4], sides of 1 px to half of `size`."""
    rng = np.random.default_rng(seed)
    corner, sides = rng.uniform(0, size / 2, (number, 2)), rng.uniform(1, size / 2, (number, 2))
    return np.concatenate([corner, corner + sides], 1).astype(np.float32)


def xywh(boxes: np.ndarray) -> np.ndarray:
    """As pycocotools wants them."""
    boxes = boxes.astype(np.float64)
    return np.concatenate([boxes[:, 1::-1], (boxes[:, 2:] - boxes[:, :2])[:, ::-1]], 1)


def test_overlaps_are_pycocotools():
    first, second = random_boxes(40), random_boxes(30, seed=1)
    expected = rle.iou(xywh(first), xywh(second), [0] * 30)
    np.testing.assert_allclose(pairwise_iou(jnp.array(first), jnp.array(second)), expected, atol=1e-6)
    assert expected.max() > 0.5 and (expected == 0).any()


def test_boxes_without_area():
    boxes = jnp.array([[3, 4, 3, 9], [5, 5, 2, 2], [0, 0, 10, 10]], jnp.float32)
    np.testing.assert_array_equal(areas(boxes), [0, 0, 100])
    np.testing.assert_array_equal(pairwise_iou(boxes, boxes), np.diag([0, 0, 1]))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_deltas_are_detectron2s(weights):
    boxes, references = random_boxes(50), random_boxes(50, seed=1)
    expected = []
    for (y0, x0, y1, x1), (v0, u0, v1, u1) in zip(boxes.astype(float), references.astype(float), strict=True):
        dx = ((x0 + x1) / 2 - (u0 + u1) / 2) / (u1 - u0)
        dy = ((y0 + y1) / 2 - (v0 + v1) / 2) / (v1 - v0)
        deltas = dx, dy, math.log((x1 - x0) / (u1 - u0)), math.log((y1 - y0) / (v1 - v0))
        expected.append(np.multiply(deltas, weights))
    deltas = encode(jnp.array(boxes), jnp.array(references), weights)
    np.testing.assert_allclose(deltas, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(decode(deltas, jnp.array(references), weights), boxes, atol=1e-4)


def test_a_side_grows_at_most_1000_by_16():
    reference = jnp.array([[0, 0, 16, 32]], jnp.float32)
    (box,) = np.asarray(decode(jnp.array([[0, 0, 100, 4.0]]), reference, (1.0, 1.0, 1.0, 1.0)))
    height = 16 * math.exp(4)
    np.testing.assert_allclose(box, [8 - height / 2, 16 - 1000, 8 + height / 2, 16 + 1000], rtol=1e-5)


def test_deltas_of_padding_are_finite():
    assert np.isfinite(encode(jnp.zeros([2, 4]), jnp.array(random_boxes(2)), (1.0, 1.0, 1.0, 1.0))).all()


def test_boxes_are_clipped_to_the_photo():
    boxes = jnp.array([[-5.0, -6, 7, 8], [10, 20, 300, 400], [60, 2, 70, 3]])
    expected = [[0, 0, 7, 8], [10, 20, 50, 90], [50, 2, 50, 3]]
    np.testing.assert_array_equal(clip(boxes, jnp.array([50.0, 90.0])), expected)


@pytest.mark.parametrize(
    ("side", "level"),
    [(1, 2), (111, 2), (112, 3), (113, 3), (223, 3), (224, 4), (225, 4), (447, 4), (448, 5), (449, 5), (1344, 5)],
)
def test_the_level_of_a_region_by_its_side(side, level):
    """The boundaries themselves belong to the upper level; a region of the same area and another shape does, too."""
    boxes = jnp.array([[0, 0, side, side], [3, 5, 3 + side / 4, 5 + 4 * side]], jnp.float32)
    assert level_of(boxes).tolist() == [level, level]


def test_the_level_of_a_region_by_the_formula():
    boxes = random_boxes(500, size=2000).astype(np.float64)
    sides = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    expected = np.clip(np.floor(4 + np.log2(sides / 224 + 1e-8)), 2, 5)
    np.testing.assert_array_equal(level_of(jnp.array(boxes, jnp.float32)), expected)
    assert set(expected) == {2, 3, 4, 5}
