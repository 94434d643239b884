"""ORL's colours: the draws by their distribution; tests/test_color_jitter.py has the adjustments."""

import jax
import numpy as np

from univip_jax.evaluate.colors import EIGENVALUES, EIGENVECTORS, augment_colors, light

PHOTO = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)


def test_colours_draw_one_factor_per_image():
    """An even grey has no contrast and no saturation, only brightness, U(0.6, 1.4)."""
    greys = np.full((2000, 1, 1, 3), 0.5, np.float32)
    factors = np.asarray(jax.jit(augment_colors, static_argnums=(2, 3))(jax.random.key(0), greys, 0.4, 0.0))
    factors = factors[:, 0, 0, 0] / 0.5
    assert 0.6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4
    np.testing.assert_allclose([factors.mean(), factors.std()], [1.0, 0.8 / np.sqrt(12)], atol=0.02)


def test_light_has_the_covariance_of_imagenet_colours():
    """One shift for all pixels of an image: V diag((0.1 l)^2) V'."""
    keys = jax.random.split(jax.random.key(2), 20000)
    shifts = np.asarray(jax.jit(jax.vmap(lambda key: light(key, np.zeros((2, 2, 3), np.float32), 0.1)))(keys))
    assert (shifts == shifts[:, :1, :1]).all()
    expected = EIGENVECTORS @ np.diag((0.1 * EIGENVALUES) ** 2) @ EIGENVECTORS.T
    np.testing.assert_allclose(np.cov(shifts[:, 0, 0].T), expected, atol=4e-6)
    np.testing.assert_allclose(EIGENVECTORS.T @ EIGENVECTORS, np.eye(3), atol=1e-3)


def test_augment_colors_draws_per_image():
    """Of one photo; without strength it stays as it is."""
    images = np.stack([PHOTO] * 64) / np.float32(255)
    augment = jax.jit(augment_colors, static_argnums=(2, 3))
    found = np.asarray(augment(jax.random.key(3), images, 0.4, 0.1))
    assert len(np.unique(found[:, 0, 0, 0])) == 64
    np.testing.assert_allclose(augment(jax.random.key(3), images, 0.0, 0.0), images, atol=1e-6)
