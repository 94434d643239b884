"""Single crops: torchvision's by NumPy's version of its documented algorithm, ours by their distribution."""

from functools import partial

import jax
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from univip_jax.crops import torchvision_crops, uniform_crops
from univip_jax.data.labelled import crops as labelled

COUNT, AREA, ASPECT = 20000, (0.08, 1.0), (3 / 4, 4 / 3)


def on_accelerator(function, height: int, width: int, area: tuple[float, float] = AREA) -> np.ndarray:
    """COUNT boxes, [COUNT, 4]."""
    draw = jax.jit(lambda size: function(jax.random.key(0), size, COUNT, area, ASPECT))
    return np.asarray(draw(np.float32([height, width])), float)


def on_host(height: int, width: int, area: tuple[float, float] = AREA) -> np.ndarray:
    """COUNT boxes, [COUNT, 4], as labelled photos are cropped."""
    sides = tf.constant(float(height)), tf.constant(float(width))
    graph = tf.function(lambda *args: labelled.torchvision_crops(*args, COUNT, area, ASPECT))
    return graph(tf.constant([0, 0]), *sides).numpy().astype(float)


BOTH = [on_host, partial(on_accelerator, torchvision_crops)]


def torchvisions(height: int, width: int) -> np.ndarray:
    """Boxes [COUNT, 4], px, of RandomResizedCrop as its documentation tells it: ten tries, then the centre."""
    rng, boxes = np.random.default_rng(1), []
    for _ in range(COUNT):
        for _ in range(10):
            area, ratio = height * width * rng.uniform(*AREA), np.exp(rng.uniform(*np.log(ASPECT)))
            w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                break
        else:
            h, w = height, width
            if width / height < ASPECT[0]:
                h = round(width / ASPECT[0])
            elif width / height > ASPECT[1]:
                w = round(height * ASPECT[1])
            top, left = (height - h) // 2, (width - w) // 2
        boxes.append([top, left, top + h, left + w])
    return np.array(boxes)


@pytest.mark.parametrize("draw", BOTH, ids=["host", "accelerator"])
@pytest.mark.parametrize(("height", "width"), [(480, 640), (427, 640), (300, 900), (900, 300)])
def test_torchvision_crops_are_torchvisions(height, width, draw):
    """Kolmogorov and Smirnov's bound for two samples of 20,000 at 1e-6 is 0.027. 300 x 900 reaches the centre."""
    boxes = draw(height, width) * [height, width, height, width]
    np.testing.assert_allclose(boxes, boxes.round(), atol=1e-3)  # whole px
    boxes, expected = boxes.round(), torchvisions(height, width)
    assert (boxes >= 0).all() and (boxes <= [height, width, height, width]).all()
    for of in (
        lambda box: (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]),
        lambda box: np.log((box[:, 3] - box[:, 1]) / (box[:, 2] - box[:, 0])),
        lambda box: box[:, 0] / np.maximum(1, height - (box[:, 2] - box[:, 0])),
        lambda box: box[:, 1] / np.maximum(1, width - (box[:, 3] - box[:, 1])),
    ):
        assert stats.ks_2samp(of(boxes), of(expected)).statistic < 0.027
    centre = [np.mean((found == [0, 250, 300, 650]).all(1)) for found in (boxes, expected)]
    assert centre[0] == pytest.approx(centre[1], abs=0.01) and (centre[1] > 0.02) == ((height, width) == (300, 900))


@pytest.mark.parametrize("draw", BOTH, ids=["host", "accelerator"])
@pytest.mark.parametrize(("height", "width", "box"), [(1, 1, [0, 0, 1, 1]), (3, 2000, [0, 998, 3, 1002])])
def test_where_no_draw_fits_the_crop_is_torchvisions_central_one(height, width, box, draw):
    """At a whole photo's area nothing fits but a photo within the range; sides are round(3 x 4 / 3) = 4, and 1."""
    boxes = draw(height, width, (1.0, 1.0)) * [height, width, height, width]
    np.testing.assert_allclose(boxes, np.broadcast_to(box, boxes.shape), atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (300, 300), (200, 700)])
def test_uniform_crops_have_uniform_areas_and_log_uniform_aspects(height, width):
    """Kolmogorov's bound at 1e-6 for 20000 draws is 0.019. 200 x 700 fits no large crop of the range."""
    found = on_accelerator(uniform_crops, height, width)
    assert (found >= 0).all() and (found <= 1 + 1e-6).all()
    sides = found[:, 2:] - found[:, :2]
    ratio = sides[:, 1] * width / (sides[:, 0] * height)
    if width / height < 3:
        area = np.sort((sides.prod(1) - 0.08) / 0.92)
        assert np.abs(area - np.arange(20000) / 20000).max() < 0.019
        assert (ratio > 0.75 - 1e-4).all() and (ratio < 4 / 3 + 1e-4).all()
        small = sides.prod(1) < 0.5  # every aspect of the range fits
        shape = np.sort((np.log(ratio[small]) - np.log(0.75)) / (np.log(4 / 3) - np.log(0.75)))
        assert np.abs(shape - np.arange(len(shape)) / len(shape)).max() < 0.03
    else:
        fits = ratio < 4 / 3 + 1e-4
        np.testing.assert_allclose(sides[~fits, 0], 1.0, atol=1e-5)  # as high as the photo
        assert 0.3 < fits.mean() < 0.6
    room = 1 - sides.prod(1) > 0.3
    where = (found[:, :2] / np.maximum(1 - sides, 1e-9))[room & (sides < 0.9).all(1)]
    np.testing.assert_allclose(where.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose(where.std(0), np.sqrt(1 / 12), atol=0.01)
