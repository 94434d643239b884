"""The forward pass at test: its parts in order, photo by photo."""

from functools import partial

import jax
import numpy as np
import pytest

from tests.weights.random_detector import FULL, detector_variables
from univip_jax.detection.predict import predict
from univip_jax.detection.spec import DetectorSpec
from univip_jax.detection.step import Detector

SPEC = DetectorSpec(
    channels=8, head_width=16, rpn_candidates=(30, 30), proposals=12, test_candidates=30, detections=6, mask_bins=7
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
