"""The filter against a loop that follows the words of the paper, and naive boxes against its limits."""

import numpy as np
import pytest

from data_prep import filters


def keep_by_hand(candidates, min_side, max_boxes):
    kept = []
    for y0, x0, y1, x1 in candidates.tolist():
        height, width = y1 - y0, x1 - x0
        if height < min_side or width < min_side or width / height > 3 or height / width > 3:
            continue
        ious = []
        for other in kept:
            overlap = max(0, min(y1, other[2]) - max(y0, other[0])) * max(0, min(x1, other[3]) - max(x0, other[1]))
            area = (other[2] - other[0]) * (other[3] - other[1])
            ious.append(overlap / (height * width + area - overlap))
        if all(iou <= 0.5 for iou in ious) and len(kept) < max_boxes:
            kept.append([y0, x0, y1, x1])
    return np.array(kept).reshape(-1, 4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_boxes", [100, 7])
def test_keep_agrees_with_the_loop(seed, max_boxes):
    corners = np.random.default_rng(seed).integers(0, 400, [600, 2, 2]).astype(float)
    candidates = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=-1)
    expected = keep_by_hand(candidates, 64, max_boxes)
    np.testing.assert_array_equal(filters.keep(candidates, 64, max_boxes), expected)
    assert len(expected) >= 7


def test_keep_includes_its_limits():
    exact = np.array([[0.0, 0, 64, 192], [100, 0, 292, 64], [0, 300, 100, 400], [0, 300, 50, 400]])
    # Sides of exactly 64, aspects of exactly 3 and 1/3; the last has IoU of exactly 0.5 with the third, but is too flat
    # for a min_side of 64 only.
    np.testing.assert_array_equal(filters.keep(exact, 64, 100), exact[:3])
    np.testing.assert_array_equal(filters.keep(exact, 50, 100), exact)


def test_keep_without_candidates_gives_no_boxes():
    assert filters.keep(np.zeros([0, 4]), 64, 100).shape == (0, 4)
    assert filters.keep(np.array([[0.0, 0, 10, 10], [5, 5, 5, 5]]), 1, 0).shape == (0, 4)


def test_naive_candidates_are_inside_large_enough_and_repeatable():
    first, second = (filters.naive_candidates(200, 300, 64, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (first >= 0).all() and (first[:, 2:] <= [200, 300]).all()
    assert (first[:, 2:] - first[:, :2]).min() >= 64 - 1e-9
    assert len(filters.keep(first, 64, 100)) >= 4


def test_naive_candidates_of_a_small_photo_are_none():
    assert filters.naive_candidates(63, 500, 64, np.random.default_rng(0)).shape == (0, 4)
