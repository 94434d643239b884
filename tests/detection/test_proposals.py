"""Proposals and detections against Detectron2's steps in NumPy, with TensorFlow's suppression."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from univip_jax.detection.detections import detect
from univip_jax.detection.proposals import propose

SIZE = np.array([90.0, 120.0], np.float32)
CANVAS_BOXES = ((40, 16), (12, 40))  # anchors of two levels, and their side in px


def decoded(deltas: np.ndarray, boxes: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """Box by box, within the photo."""
    found = []
    for (dx, dy, dw, dh), (y0, x0, y1, x1) in zip((deltas / weights).tolist(), boxes.tolist(), strict=True):
        h, w = y1 - y0, x1 - x0
        y, x = y0 + h / 2 + dy * h, x0 + w / 2 + dx * w
        h, w = h * math.exp(min(dh, math.log(62.5))), w * math.exp(min(dw, math.log(62.5)))
        found.append([y - h / 2, x - w / 2, y + h / 2, x + w / 2])
    return np.clip(np.array(found), 0, [90, 120, 90, 120])


def suppressed(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Places that greedy suppression keeps, the best first."""
    if not len(boxes):
        return np.zeros(0, int)
    return tf.image.non_max_suppression(boxes.astype(np.float32), scores, len(boxes), threshold).numpy()


@pytest.fixture(scope="module")
def levels():
    """Logits, deltas and anchors of two levels; some anchors leave the photo wholly."""
    rng, parts = np.random.default_rng(0), []
    for number, side in CANVAS_BOXES:
        corners = rng.uniform(-30, 120, (number, 2))
        boxes = np.concatenate([corners, corners + side * rng.uniform(0.5, 1, (number, 2))], 1)
        logits = np.linspace(3, -3, number)[rng.permutation(number)]
        parts.append((logits, 0.3 * rng.normal(size=(number, 4)), boxes))
    return [tuple(values.astype(np.float32) for values in part) for part in parts]


@pytest.mark.parametrize(("candidates", "number"), [(20, 15), (100, 60)])
def test_proposals(levels, candidates, number):
    """The best of each level, decoded, without those that lost their area, suppressed by level, the best of all."""
    expected = []
    for logits, deltas, boxes in levels:
        best = np.argsort(-logits)[:candidates]
        found = decoded(deltas[best], boxes[best], (1, 1, 1, 1))
        whole = (found[:, 2:] > found[:, :2]).all(1)
        found, scores = found[whole], logits[best][whole]
        expected += [(scores[place], found[place]) for place in suppressed(found, scores, 0.7)]
        assert not whole.all()
    expected = sorted(expected, key=lambda one: -one[0])[:number]

    *heads, anchors = zip(*levels, strict=True)

    def run(logits, deltas, size):
        return propose(logits, deltas, anchors, size, candidates=candidates, number=number, threshold=0.7)

    found = jax.jit(run)(*heads, SIZE)
    count = int(found.exists.sum())
    assert count == len(expected) and found.exists[:count].all() and len(found.boxes) == min(number, 52, 2 * candidates)
    np.testing.assert_allclose(found.scores[:count], [score for score, _ in expected])
    np.testing.assert_allclose(found.boxes[:count], [box for _, box in expected], atol=1e-4)
    np.testing.assert_array_equal(found.boxes[count:], np.tile([0, 0, 1, 1], (len(found.boxes) - count, 1)))


def test_no_gradient_flows_through_proposals(levels):
    *heads, anchors = zip(*levels, strict=True)

    def total(heads):
        found = propose(*heads, anchors, jnp.array(SIZE), candidates=20, number=15, threshold=0.7)
        return found.boxes.sum() + found.scores.sum()

    gradient = jax.jit(jax.grad(total))(heads)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def heads(seed: int, regions: int, classes: int, sharpness: float = 3) -> tuple[np.ndarray, ...]:
    """Logits, deltas and proposals."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (regions, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 50, (regions, 2))], 1)
    parts = sharpness * rng.normal(size=(regions, classes + 1)), rng.normal(size=(regions, classes, 4)), boxes
    return tuple(values.astype(np.float32) for values in parts)


def run_detect(*arrays, candidates=500, number=20):
    """The detections of one image as NumPy arrays."""
    run = partial(detect, threshold=0.05, candidates=candidates, nms=0.5, number=number)
    found = jax.jit(run)(*arrays, SIZE)
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("number", [20, 200])
def test_detections(number):
    """Softmax, a score above .05, suppression by class, the best of all classes; padding is none."""
    logits, deltas, boxes = heads(0, 40, 3)
    exists = np.arange(40) < 35
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = []
    for of_class in range(3):
        good = np.flatnonzero(exists & (scores[:, of_class] > 0.05))
        found = decoded(deltas[good, of_class], boxes[good], (10, 10, 5, 5))
        for place in suppressed(found, scores[good, of_class], 0.5):
            expected.append((scores[good[place], of_class], of_class, found[place]))
    expected = sorted(expected, key=lambda one: -one[0])[:number]
    found = run_detect(logits, deltas, boxes, exists, number=number)
    count = found.exists.sum()
    assert count == len(expected) and found.exists[:count].all() and not found.truncated
    np.testing.assert_allclose(found.scores[:count], [score for score, _, _ in expected], rtol=1e-5)
    np.testing.assert_array_equal(found.classes[:count], [of_class for _, of_class, _ in expected])
    np.testing.assert_allclose(found.boxes[:count], [box for _, _, box in expected], atol=1e-4)


def test_candidates_that_were_left_out_are_told_where_they_might_matter():
    """Not where as many detections as wanted were found among the others."""
    arrays = *heads(0, 40, 3, sharpness=0.1), np.ones(40, bool)  # all 120 scores are about 1 / 4
    assert run_detect(*arrays, candidates=60, number=60).truncated
    assert not run_detect(*arrays, candidates=60, number=5).truncated
    assert not run_detect(*arrays, candidates=120, number=120).truncated


def test_regions_that_are_not_finite_are_left_out():
    """As in Detectron2's inference; the others are what they are without them."""
    logits, deltas, boxes = heads(0, 40, 3)
    logits[:2] = 0
    exists = np.arange(40) >= 2
    expected = run_detect(logits, deltas, boxes, exists, number=50)
    logits[0, 1], deltas[1, 2, 3] = np.nan, np.nan
    found = run_detect(logits, deltas, boxes, np.ones(40, bool), number=50)
    count = expected.exists.sum()
    assert found.exists.sum() == count
    for one, other in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(one[:count], other[:count])
