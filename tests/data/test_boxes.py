"""Boxes: values worked out by hand."""

import numpy as np

from univip_jax.data import boxes


def test_pairwise_iou_by_hand():
    first = np.array([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]], np.float32)
    second = np.array([[0.0, 0.25, 0.5, 0.75], [0.5, 0.5, 1.0, 1.0], [0.2, 0.2, 0.2, 0.2]], np.float32)
    # 0.125 / 0.375, touching only, empty; 0.25 / 1, 0.25 / 1, empty.
    expected = [[1 / 3, 0, 0], [0.25, 0.25, 0]]
    np.testing.assert_allclose(boxes.pairwise_iou(first, second), expected, rtol=1e-6)


def test_pairwise_iou_of_two_empty_boxes_is_zero_without_a_warning():
    empty = np.zeros([1, 4], np.float32)
    with np.errstate(all="raise"):
        assert boxes.pairwise_iou(empty, empty).tolist() == [[0.0]]


def test_from_xywh_px_reorders_scales_and_clips():
    found = boxes.from_xywh_px(np.array([[10.0, 20.0, 30.0, 40.0], [-5.0, 90.0, 20.0, 30.0]]), height=100, width=200)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.2, 0.05, 0.6, 0.2], [0.9, 0.0, 1.0, 0.075]], rtol=1e-6)


def test_valid_refuses_boxes_outside_swapped_empty_or_nan():
    candidates = np.array(
        [[0, 0, 1, 1], [0.5, 0, 0.5, 1], [0.6, 0, 0.5, 1], [0, -0.1, 1, 1], [0, 0, 1.1, 1], [0, np.nan, 1, 1]]
    )
    assert boxes.valid(candidates).tolist() == [True, False, False, False, False, False]
