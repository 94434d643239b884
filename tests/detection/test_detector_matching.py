"""Which object a box belongs to, by hand, and which boxes are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools import mask as rle

from tests.detection.test_detector_boxes import random_boxes, xywh
from univip_jax.detection.matching import IGNORED, NEGATIVE, POSITIVE, first_positive, match, sample

compiled = jax.jit(match, static_argnames=("low", "high", "best_of_object"))


def rpn(objects, exists, boxes):
    """As anchors are matched."""
    return compiled(objects, exists, boxes, low=0.3, high=0.7, best_of_object=True)


def by_hand(objects, boxes, low, high, best_of_object):
    """Detectron2's Matcher: thresholds first, then for each object every box that it overlaps most."""
    iou = rle.iou(xywh(boxes), xywh(objects), [0] * len(objects)).T
    kinds = []
    for column in iou.T:
        kinds.append(POSITIVE if column.max() >= high else NEGATIVE if column.max() < low else IGNORED)
    for row in iou if best_of_object else ():
        for box in np.flatnonzero(row > row.max() - 1e-9):
            kinds[box] = POSITIVE
    return iou.argmax(0), np.array(kinds)


@pytest.mark.parametrize(("low", "high", "best_of_object"), [(0.3, 0.7, True), (0.3, 0.7, False), (0.5, 0.5, False)])
@pytest.mark.parametrize("number", [1, 5])
def test_random_boxes(number, low, high, best_of_object):
    """Padding after the objects, of which each covers all boxes, changes nothing."""
    objects, boxes = random_boxes(number), random_boxes(300, seed=1)
    boxes[:20] = objects[0] + np.linspace(0, 8, 20, dtype=np.float32)[:, None]
    padded = np.concatenate([objects, np.tile(np.float32([0, 0, 100, 100]), (3, 1))])
    exists = np.arange(number + 3) < number
    index, kind = compiled(padded, exists, boxes, low=low, high=high, best_of_object=best_of_object)
    expected_index, expected = by_hand(objects, boxes, low, high, best_of_object)
    np.testing.assert_array_equal(kind, expected)
    positive = expected == POSITIVE
    np.testing.assert_array_equal(np.asarray(index)[positive], expected_index[positive])
    assert positive.any() and (expected == NEGATIVE).any()
    assert (expected == IGNORED).any() == (low < high)


def test_boxes_that_an_object_overlaps_most_are_positive_all_of_them():
    """Two boxes at .25 each; a third, at .2, is negative. The second stays with the object that it overlaps most."""
    objects = np.array([[0, 0, 10, 10], [0, 22, 10, 27]], np.float32)
    boxes = np.array([[0, -6, 10, 4], [0, 6, 10, 16], [0, 20, 10, 45], [50, 50, 60, 60]], np.float32)
    index, kind = rpn(objects, np.array([True, True]), boxes)
    assert kind.tolist() == [POSITIVE, POSITIVE, POSITIVE, NEGATIVE] and index.tolist()[:3] == [0, 0, 1]
    _, kind = rpn(objects[:1], np.array([True]), boxes[:2] + np.float32([0, 0, 0, 5]))
    assert kind.tolist() == [POSITIVE, NEGATIVE]  # at .56 and .19


def test_boxes_that_only_rounding_tells_apart_are_both_an_objects_best():
    """An accelerator may round an overlap in one product and its maximum in another, and == would then find none."""
    objects = np.array([[0, 0, 10, 10]], np.float32)
    boxes = np.array([[0, -3.3, 10, 6.7], [0, 3.3, 10, 13.3], [0, 3.4, 10, 13.4]], np.float32)
    _, kind = rpn(objects, np.array([True]), boxes)
    assert kind.tolist() == [POSITIVE, POSITIVE, IGNORED]


def test_a_box_keeps_its_own_object():
    """The first object overlaps no box more than this one, which is nearer to the second."""
    objects = np.array([[0, 0, 10, 10], [0, 4, 10, 14]], np.float32)
    index, kind = rpn(objects, np.array([True, True]), np.array([[0, 5, 10, 15]], np.float32))
    assert (index.tolist(), kind.tolist()) == ([1], [POSITIVE])


def test_thresholds_are_part_of_the_upper_kind():
    objects, exists = np.array([[0, 0, 10, 10]], np.float32), np.array([True])
    _, kind = compiled(objects, exists, np.array([[0, 0, 10, 5]], np.float32), low=0.5, high=0.5, best_of_object=False)
    assert kind.tolist() == [POSITIVE]
    _, kind = compiled(objects, exists, np.array([[0, 0, 10, 5]], np.float32), low=0.5, high=0.7, best_of_object=False)
    assert kind.tolist() == [IGNORED]


def test_without_objects_all_is_background():
    _, kind = rpn(np.zeros([3, 4], np.float32), np.zeros(3, bool), random_boxes(9))
    assert (np.asarray(kind) == NEGATIVE).all()


KINDS = np.array([POSITIVE] * 8 + [NEGATIVE] * 10 + [IGNORED] * 4)[np.random.default_rng(0).permutation(22)]


def draws(kind, number, most_positive):
    """Positives and negatives drawn by 2,000 keys."""
    keys = jax.random.split(jax.random.key(0), 2000)
    return jax.jit(jax.vmap(lambda key: sample(key, jnp.array(kind), number, most_positive)))(keys)


@pytest.mark.parametrize(
    ("number", "most_positive", "positives", "negatives"),
    [(9, 3, 3, 6), (9, 8, 8, 1), (16, 4, 4, 10), (100, 50, 8, 10), (8, 8, 8, 0)],
)
def test_as_many_are_drawn_as_detectron2_draws(number, most_positive, positives, negatives):
    """Each positive alike, each negative alike, and none ignored."""
    positive, negative = draws(KINDS, number, most_positive)
    assert set(positive.sum(1).tolist()) == {positives} and set(negative.sum(1).tolist()) == {negatives}
    expected = np.where(KINDS == POSITIVE, positives / 8, 0)
    np.testing.assert_allclose(positive.mean(0), expected, atol=0.05)
    np.testing.assert_allclose(negative.mean(0), np.where(KINDS == NEGATIVE, negatives / 10, 0), atol=0.05)


def test_negatives_fill_up_where_positives_are_few():
    kind = np.where(np.arange(22) == 5, POSITIVE, NEGATIVE)
    positive, negative = draws(kind, 9, 3)
    assert set(positive.sum(1).tolist()) == {1} and set(negative.sum(1).tolist()) == {8}


@pytest.mark.parametrize("number", [9, 20, 22, 50])
def test_the_list_has_positives_first_and_says_what_fills_it(number):
    def both(key, kind):
        return first_positive(key, kind, number, 5), sample(key, kind, number, 5)

    (indices, positive, drawn), (mask, other) = jax.jit(both)(jax.random.key(3), KINDS)
    assert len(indices) == min(number, 22) == len(set(indices.tolist()))
    assert positive.tolist() == [True] * 5 + [False] * (len(indices) - 5)
    assert set(indices[positive].tolist()) == set(np.flatnonzero(mask))
    assert set(indices[drawn & ~positive].tolist()) == set(np.flatnonzero(other))
