"""The losses of a loop over objects in float64."""

import math

import jax
import numpy as np
import pytest

from univip_jax.detection.losses import box_losses, mask_loss, rpn_losses


def cross_entropy(logit: float, target: bool) -> float:
    """Of one logit."""
    return math.log1p(math.exp(-abs(logit))) + max(logit, 0) - logit * target


@pytest.mark.parametrize(("positives", "negatives"), [(0, 256), (1, 255), (100, 156), (0, 7), (3, 0), (0, 0)])
def test_rpn(positives, negatives):
    """Among 400 anchors; fewer than 256 are drawn in some cases. What is not drawn may be anything."""
    rng = np.random.default_rng(0)
    logits, deltas, targets = 3 * rng.normal(size=400), rng.normal(size=(400, 4)), rng.normal(size=(400, 4))
    order = rng.permutation(400)
    positive, negative = np.zeros(400, bool), np.zeros(400, bool)
    positive[order[:positives]], negative[order[positives : positives + negatives]] = True, True
    classes = boxes = 0.0
    for anchor in np.flatnonzero(positive | negative):
        classes += cross_entropy(logits[anchor], positive[anchor])
        boxes += np.abs(deltas[anchor] - targets[anchor]).sum() if positive[anchor] else 0
    arrays = (values.astype(np.float32) for values in (logits, deltas, targets))
    np.testing.assert_allclose(jax.jit(rpn_losses)(*arrays, positive, negative), (classes, boxes), rtol=1e-5)


@pytest.mark.parametrize(("objects", "background"), [(0, 512), (1, 511), (100, 412), (2, 5), (0, 0)])
def test_boxes(objects, background):
    """512 regions, of which some only fill the list; 6 classes, deltas of the own class alone."""
    rng = np.random.default_rng(0)
    logits, deltas = rng.normal(size=(512, 7)), rng.normal(size=(512, 6, 4))
    classes, targets = rng.integers(0, 6, 512), rng.normal(size=(512, 4))
    order = rng.permutation(512)
    classes[order[objects : objects + background]] = 6
    drawn = np.isin(np.arange(512), order[: objects + background])
    entropy = distance = 0.0
    for region in order[: objects + background]:
        entropy += math.log(np.exp(logits[region]).sum()) - logits[region, classes[region]]
        if classes[region] < 6:
            distance += np.abs(deltas[region, classes[region]] - targets[region]).sum()
    arrays = (x.astype(np.float32) for x in (logits, deltas))
    found = jax.jit(box_losses)(*arrays, classes, targets.astype(np.float32), drawn)
    np.testing.assert_allclose(found, (entropy, distance), rtol=1e-5)


@pytest.mark.parametrize("objects", [0, 1, 100])
def test_masks(objects):
    """128 regions; the channel of the own class alone."""
    rng = np.random.default_rng(0)
    logits, classes, targets = rng.normal(size=(128, 4, 4, 3)), rng.integers(0, 3, 128), rng.random((128, 4, 4)) < 0.5
    drawn = np.isin(np.arange(128), rng.permutation(128)[:objects])
    expected = 0.0
    for region, y, x in np.ndindex(128, 4, 4):
        if drawn[region]:
            expected += cross_entropy(logits[region, y, x, classes[region]], targets[region, y, x]) / 16
    found = jax.jit(mask_loss)(logits.astype(np.float32), classes, targets, drawn)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
