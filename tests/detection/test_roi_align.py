"""RoIAlign against Detectron2's loop over samples, in NumPy, as a matrix over the map: so its gradient is known too."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from univip_jax.detection.roi_align import pool_regions, roi_align


def along(start: float, stop: float, cells: int, bins: int, samples: int | None) -> np.ndarray:
    """Weights [bins, cells] of bilinear sampling, sample by sample, with Detectron2's rules of the border."""
    start, stop = start - 0.5, stop - 0.5
    length = (stop - start) / bins
    number = samples or math.ceil((stop - start) / bins)
    weights = np.zeros([bins, cells])
    for place in range(bins):
        for sample in range(number):
            x = start + (place + (sample + 0.5) / number) * length
            if x < -1 or x > cells:
                continue
            x = max(x, 0)
            low = min(int(x), cells - 1)
            high = min(low + 1, cells - 1)
            share = x - low if high > low else 0
            weights[place, low] += (1 - share) / number
            weights[place, high] += share / number
    return weights


def by_hand(box: np.ndarray, height: int, width: int, stride: int, bins: int, samples: int | None) -> np.ndarray:
    """Weights [bins, bins, height, width] of a region."""
    y0, x0, y1, x1 = (box / stride).tolist()
    rows, columns = along(y0, y1, height, bins, samples), along(x0, x1, width, bins, samples)
    return np.einsum("ph,qw->pqhw", rows, columns)


def regions(height: int, width: int, beyond: float) -> np.ndarray:
    """float32 yxyx [12, 4] up to `beyond` px outside; without area, 40:1 both ways, the whole, along two borders."""
    rng = np.random.default_rng(height)
    ends = rng.uniform([-beyond, -beyond], [height + beyond, width + beyond], (2, 6, 2))
    random = np.concatenate([ends.min(0), ends.max(0)], 1)
    fixed = [
        *([3, 5, 3, 5], [7, 2, 7, 30], [2, 0, 2 + width / 40, width], [0, 4, height, 4 + height / 40]),
        *([0, 0, height, width], [height - 9.5, width - 7.25, height, width]),
    ]
    return np.concatenate([random, fixed]).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "stride", "bins", "samples", "beyond"),
    [
        ((25, 34), 8, 7, None, 0),
        ((34, 25), 8, 14, None, 0),
        ((3, 5), 32, 7, None, 0),
        ((25, 34), 4, 7, 2, 40),
        ((9, 7), 16, 14, 2, 40),
        ((25, 34), 8, 7, None, 4),
    ],
)
def test_values_and_gradient(shape, stride, bins, samples, beyond):
    """Adaptive sampling, and two samples a bin; regions within the map and beyond it."""
    rng = np.random.default_rng(0)
    level = rng.normal(size=(*shape, 3)).astype(np.float32)
    boxes = regions(shape[0] * stride, shape[1] * stride, beyond)
    weights = np.stack([by_hand(box, *shape, stride, bins, samples) for box in boxes])
    back = rng.normal(size=(len(boxes), bins, bins, 3)).astype(np.float32)

    def both(level):
        pooled, pull = jax.vjp(lambda level: roi_align(level, jnp.array(boxes), stride, bins, samples=samples), level)
        return pooled, pull(back)[0]

    pooled, gradient = jax.jit(both)(level)
    np.testing.assert_allclose(pooled, np.einsum("rpqhw,hwc->rpqc", weights, level), atol=1e-5)
    expected = np.einsum("rpqhw,rpqc->hwc", weights, back)
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(pooled).max() > 1


def test_each_region_comes_from_its_level():
    """Two images, regions of all four levels, and the gradient of every level."""
    rng, strides = np.random.default_rng(0), (4, 8, 16, 32)
    height, width = 512, 640
    pyramid = [rng.normal(size=(2, height // s, width // s, 2)).astype(np.float32) for s in strides]
    sides = np.array([[20, 111, 112, 223], [224, 300, 448, 500]], np.float32)
    corners = rng.integers(0, 48, (2, 4, 2)) / np.float32(4)  # exact: 224 px are level 4, and two samples a bin
    boxes = np.concatenate([corners, corners + sides[..., None]], -1)
    levels = np.array([[0, 0, 1, 1], [2, 2, 3, 3]])
    back = rng.normal(size=(2, 4, 7, 7, 2)).astype(np.float32)
    expected, gradients = np.zeros(back.shape), [np.zeros(level.shape) for level in pyramid]
    for image, region in np.ndindex(2, 4):
        level = levels[image, region]
        weights = by_hand(boxes[image, region], *pyramid[level].shape[1:3], strides[level], 7, None)
        expected[image, region] = np.einsum("pqhw,hwc->pqc", weights, pyramid[level][image])
        gradients[level][image] += np.einsum("pqhw,pqc->hwc", weights, back[image, region])

    def both(pyramid):
        pooled, pull = jax.vjp(lambda pyramid: pool_regions(pyramid, jnp.array(boxes), strides, 7), pyramid)
        return pooled, pull(back)[0]

    pooled, found = jax.jit(both)(pyramid)
    np.testing.assert_allclose(pooled, expected, atol=1e-5)
    for gradient, wanted in zip(found, gradients, strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=1e-5)
