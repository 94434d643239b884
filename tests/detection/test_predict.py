"""The forward pass at test: its parts in order, photo by photo."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.weights.random_detector import FULL, detector_variables
from univip_jax.detection.anchors import STRIDES
from univip_jax.detection.predict import predict
from univip_jax.detection.roi_align import pool_regions
from univip_jax.detection.spec import DetectorSpec
from univip_jax.detection.step import Detector, on_canvas

SPEC = DetectorSpec(
    channels=8, head_width=16, rpn_candidates=(30, 30), proposals=12, test_candidates=36, detections=24, mask_bins=7
)
DETECTOR = Detector(FULL, SPEC)
SIZES = np.array([[64, 80], [50, 96]], np.float32)


@pytest.fixture(scope="module")
def found():
    """Two photos, and then the second of them twice."""
    images = np.random.default_rng(0).integers(0, 255, (2, 64, 96, 3), dtype=np.uint8)
    run, variables = jax.jit(partial(predict, DETECTOR)), detector_variables(FULL)
    both = run(variables, images, SIZES)
    beyond = np.where(np.arange(64)[:, None, None] >= 50, 77, images[1])  # pixels that are not the photo's
    again = run(variables, np.stack([images[1], beyond]).astype(np.uint8), SIZES[[1, 1]])
    return images, jax.device_get(both), jax.device_get(again)


def test_what_is_found_does_not_depend_on_the_other_photos_nor_on_pixels_beside_the_photo(found):
    _, both, again = found
    for place in (0, 1):
        for one, other in zip(jax.tree.leaves(both), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(one[1], other[place], atol=1e-5)


def test_detections_lie_in_their_photo_by_descending_score(found):
    detections = found[1].detections
    assert detections.exists.any(1).all()
    for row, (height, width) in enumerate(SIZES):
        boxes, scores = detections.boxes[row], detections.scores[row]
        assert (boxes >= 0).all() and (boxes[:, 2] <= height).all() and (boxes[:, 3] <= width).all()
        assert (np.diff(scores) <= 0).all() and (scores[detections.exists[row]] > 0.05).all()


def test_masks_are_the_head_s_probability_of_the_detected_class(found):
    """Of the detected box, not of its proposal."""
    images, both, _ = found

    def logits(variables, images, boxes):
        levels = FULL.apply(variables, on_canvas(images, jnp.array(SIZES)), False, method="levels")
        pooled = pool_regions(levels[:4], boxes, STRIDES[:4], 7)
        return FULL.apply(variables, pooled.reshape(-1, 7, 7, 8), False, method="segment")

    boxes, classes = both.detections.boxes, both.detections.classes
    logits = np.asarray(jax.jit(logits)(detector_variables(FULL), images, jnp.array(boxes))).reshape(2, 24, 14, 14, 3)
    assert set(classes.ravel().tolist()) > {0}
    for row, place in np.ndindex(2, 24):
        expected = 1 / (1 + np.exp(-logits[row, place, ..., classes[row, place]]))
        np.testing.assert_allclose(both.masks[row, place], expected, atol=1e-5)
