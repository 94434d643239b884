"""The stem's max pool and its gradient, by loops over windows."""

import jax
import numpy as np
import pytest

from univip_jax.models.max_pool import max_pool


@pytest.mark.parametrize("sides", [(7, 8), (8, 5), (1, 1)])
def test_maxima_and_gradients_of_which_equal_pixels_give_the_first_all(sides):
    rng = np.random.default_rng(0)
    x = np.maximum(rng.integers(-3, 4, (2, *sides, 3)), 0).astype(np.float32)  # many equal pixels, as after a ReLU
    out, pull_back = jax.vjp(jax.jit(max_pool), x)
    cotangent = rng.integers(1, 9, out.shape).astype(np.float32)
    expected, grad = np.zeros_like(out), np.zeros_like(x)
    for n, h, w, c in np.ndindex(*out.shape):
        top, left = max(2 * h - 1, 0), max(2 * w - 1, 0)
        window = x[n, top : 2 * h + 2, left : 2 * w + 2, c]
        row, column = np.unravel_index(window.argmax(), window.shape)
        expected[n, h, w, c] = window.max()
        grad[n, top + row, left + column, c] += cotangent[n, h, w, c]
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(pull_back(cotangent)[0], grad)
