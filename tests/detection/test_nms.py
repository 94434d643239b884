"""Suppression against TensorFlow's greedy loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from univip_jax.detection.nms import suppress

CASES, BOXES = 1000, 40


def random_case(rng: np.random.Generator, kind: int) -> np.ndarray:
    """float32 yxyx [40, 4] of one of four kinds: loose, twice each, on a grid (overlaps of exactly .5), a chain."""
    corners, sides = rng.uniform(0, 60, (BOXES, 2)), rng.uniform(5, 50, (BOXES, 2))
    boxes = np.concatenate([corners, corners + sides], 1)
    if kind == 1:
        boxes[BOXES // 2 :] = boxes[: BOXES // 2]
    elif kind == 2:
        boxes = np.round(boxes / 16) * 16 + [0, 0, 16, 16]
    elif kind == 3:  # each overlaps its neighbours alone, so that every decision hangs on the one before
        steps = np.arange(BOXES) * rng.uniform(1, 5)
        boxes = np.stack([steps, steps * 0, steps + 10, steps * 0 + 10], 1)[rng.permutation(BOXES)]
    return boxes.astype(np.float32)


def greedy(boxes: np.ndarray, places: np.ndarray, threshold: float) -> np.ndarray:
    """Which of the boxes at these places TensorFlow keeps, the first being the best."""
    scores = np.linspace(1, 0.5, len(places), dtype=np.float32)
    chosen = tf.image.non_max_suppression(boxes[places], scores, len(places), threshold).numpy()
    return np.isin(np.arange(len(boxes)), places[chosen])


@pytest.fixture(scope="module")
def cases():
    """Boxes [1000, 40, 4], which of them are no padding, and a class for each."""
    rng = np.random.default_rng(0)
    boxes = np.stack([random_case(rng, number % 4) for number in range(CASES)])
    return boxes, rng.random((CASES, BOXES)) < 0.8, rng.integers(0, 3, (CASES, BOXES))


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_1000_random_cases(cases, threshold):
    """Ties, chains, overlaps at the threshold, padding."""
    boxes, valid, _ = cases
    kept = jax.jit(jax.vmap(lambda boxes, valid: suppress(boxes, valid, threshold)))(boxes, valid)
    expected = [greedy(b, np.flatnonzero(v), threshold) for b, v in zip(boxes, valid, strict=True)]
    np.testing.assert_array_equal(kept, expected)
    assert 0.3 < np.mean(expected) < 0.7


def test_classes_do_not_touch_each_other(cases):
    boxes, valid, classes = (values[:200] for values in cases)
    kept = jax.jit(jax.vmap(lambda boxes, valid, groups: suppress(boxes, valid, 0.5, groups)))(boxes, valid, classes)
    for case in range(200):
        of_class = [np.flatnonzero(valid[case] & (classes[case] == number)) for number in range(3)]
        expected = np.any([greedy(boxes[case], places, 0.5) for places in of_class], axis=0)
        np.testing.assert_array_equal(kept[case], expected)


def test_a_chain_of_200():
    """Every second box stays, however far the decision travels."""
    starts = np.arange(200) * 4.0
    boxes = np.stack([starts * 0, starts, starts * 0 + 10, starts + 10], 1).astype(np.float32)
    kept = jax.jit(lambda boxes: suppress(boxes, jnp.ones(200, bool), 0.3))(boxes)
    np.testing.assert_array_equal(kept, np.arange(200) % 2 == 0)


def test_without_any_box():
    kept = jax.jit(lambda boxes: suppress(boxes, jnp.zeros(5, bool), 0.5))(np.zeros([5, 4], np.float32))
    assert not kept.any()
