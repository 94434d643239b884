"""Both colour jitters: torchvision's adjustments against Pillow's, BYOL's against colorsys; then the draws."""

import colorsys

import dm_pix
import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from univip_jax.colors import JITTERS, blend

QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time; nothing here runs for long
NONE = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def noise(low: int = 0, high: int = 256, size: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (size, size, 3), np.uint8)


def jittered(kind: str, image: np.ndarray, count: int = 32, **strengths) -> np.ndarray:
    """`count` draws of one image, [count, H, W, 3]."""
    pixels = np.asarray(image / np.float32(255), np.float32)
    draw = jax.vmap(lambda key: JITTERS[kind](key, pixels, **(NONE | strengths)))
    return np.asarray(jax.jit(draw, compiler_options=QUICK)(jax.random.split(jax.random.key(0), count)), np.float64)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize(
    ("kind", "enhance"), [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)]
)
def test_torchvisions_blends_are_pillows(kind, enhance, factor):
    """Pillow rounds greys to a level, which counts |1 - factor| times, and truncates results."""
    image = noise()
    expected = np.asarray(enhance(Image.fromarray(image)).enhance(factor), float)
    found = 255 * np.asarray(blend(image / np.float32(255), kind, factor))
    np.testing.assert_allclose(found, expected, atol=1.01 + 0.5 * abs(1 - factor))


@pytest.mark.parametrize("levels", [-25, -1, 0, 10, 25])
def test_torchvisions_hue_is_pillows(levels):
    """As torchvision turns a PIL image: whole levels are added to the uint8 hue, modulo 256.

    Pillow truncates hue and saturation to levels. A level of hue, of which its circle has 255, moves a channel by up to
    6 levels, a level of saturation by 1: 8 with rounding. Where the sum wraps, modulo 256 instead of 255, 6 more.
    """
    image = noise(size=64)
    hsv = np.array(Image.fromarray(image).convert("HSV"))
    turned = hsv[..., 0].astype(int) + levels
    hsv[..., 0] = turned % 256
    expected = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"), float)
    difference = np.abs(255 * np.asarray(dm_pix.adjust_hue(image / np.float32(255), levels / 255)) - expected).max(-1)
    assert difference[(turned >= 0) & (turned < 256)].max() < 8 and difference.max() < 14 and difference.mean() < 2.5


def factors_of(found: np.ndarray, image: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """The factor of each draw that moved the image from its anchor; asserts that one factor did for all pixels."""
    centred = np.broadcast_to(image - anchor, image.shape)
    factors = ((found - anchor) * centred).sum((1, 2, 3)) / (centred**2).sum()
    np.testing.assert_allclose(found - anchor, factors[:, None, None, None] * centred, atol=1e-5)
    return factors


def test_torchvisions_factors_are_uniform_about_1():
    """On pixels that no factor clips; the mean and deviation of U(0.6, 1.4) and U(0.8, 1.2), and its bounds."""
    image = noise(100, 150, size=6)
    scaled, luma = image / 255, np.array([0.299, 0.587, 0.114])
    grey = (scaled @ luma)[..., None]
    for name, strength, anchor in [("brightness", 0.4, 0), ("contrast", 0.4, grey.mean()), ("saturation", 0.2, grey)]:
        factors = factors_of(jittered("torchvision", image, 2000, **{name: strength}), scaled, anchor)
        assert (np.abs(factors - 1) <= strength + 1e-4).all() and np.abs(factors - 1).max() > 0.99 * strength
        np.testing.assert_allclose([factors.mean(), factors.std()], [1, strength / np.sqrt(3)], atol=0.02)


def test_torchvisions_factor_is_never_below_0():
    """U(max(0, 1 - strength), 1 + strength): a strength of 2 draws U(0, 3), which leaves the grey of 20 at 0 to 60."""
    found = jittered("torchvision", np.full((1, 1, 3), 20, np.uint8), 2000, brightness=2.0)[:, 0, 0, 0] * 255 / 20
    np.testing.assert_allclose([found.min(), found.max(), found.mean()], [0, 3, 1.5], atol=0.08)


@pytest.mark.parametrize(
    ("first", "second", "pixels"),
    [
        ("brightness", "contrast", [[230, 230, 230], [25, 25, 25]]),
        ("brightness", "saturation", [[150, 128, 100], [150, 128, 100]]),
        ("contrast", "saturation", [[0, 0, 0], [230, 204, 178]]),
        ("hue", "contrast", [[230, 128, 26], [230, 128, 26]]),
    ],
)
def test_torchvisions_order_is_random(first, second, pixels):
    """A factor of thousands clips: what is white remains so. Contrast leaves channels of 0 and 1 unless hue follows."""
    strengths = {name: 0.1 if name == "hue" else 1e4 for name in (first, second)}
    found = jittered("torchvision", np.array([pixels], np.uint8), 400, **strengths)
    white = (found[:, 0, -1] == 1).all(-1)
    binary = ((found < 1e-3) | (found > 1 - 1e-3)).all((1, 2, 3))
    share = (binary if first == "hue" else white).mean()
    assert 0.4 < share < 0.6


def test_byols_brightness_adds_one_number_to_an_image():
    image = noise(110, 146)  # + -0.4 stays within [0, 1]
    difference = jittered("byol", image, brightness=0.4) - image / 255
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :1, :1, :1], difference.shape), atol=1e-5)
    drawn = difference[:, 0, 0, 0]
    assert (np.abs(drawn) <= 0.4).all() and drawn.min() < -0.2 and drawn.max() > 0.2


def test_byols_brightness_is_clipped_to_pixels():
    image = noise()
    found = jittered("byol", image, brightness=0.4)
    middle = np.unravel_index(np.abs(image.astype(int) - 127).argmin(), image.shape)
    delta = (found[:, *middle] - image[middle] / 255)[:, None, None, None]
    np.testing.assert_allclose(found, np.clip(image / 255 + delta, 0, 1), atol=1e-5)


def test_byols_contrast_stretches_about_the_mean_of_each_channel():
    image = noise(90, 166) + np.array([0, 10, 20], np.uint8)  # times 1.4 stays within [0, 1]
    factors = factors_of(jittered("byol", image, contrast=0.4), image / 255, (image / 255).mean((0, 1)))
    assert (np.abs(factors - 1) <= 0.4).all() and factors.min() < 0.8 and factors.max() > 1.2


def hsv(image: np.ndarray) -> np.ndarray:
    """By Python's colorsys, pixel by pixel."""
    return np.array([colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3)]).reshape(image.shape)


def rgb(image: np.ndarray) -> np.ndarray:
    return np.array([colorsys.hsv_to_rgb(*pixel) for pixel in image.reshape(-1, 3)]).reshape(image.shape)


def test_byols_saturation_is_multiplied_in_hsv():
    image, factors = noise(size=12), []
    before = hsv(image / 255)
    for found in jittered("byol", image, 12, saturation=0.2):
        dull = np.unravel_index(before[..., 1].argmin(), before.shape[:2])  # will not be clipped at 1
        factors.append(hsv(found)[dull][1] / before[dull][1])
        saturation = np.clip(before[..., 1] * factors[-1], 0, 1)
        np.testing.assert_allclose(found, rgb(np.stack([before[..., 0], saturation, before[..., 2]], -1)), atol=1e-4)
    assert min(factors) >= 0.8 - 1e-3 and max(factors) <= 1.2 + 1e-3 and max(factors) - min(factors) > 0.1


@pytest.mark.parametrize("kind", JITTERS)
def test_hue_is_shifted_on_the_circle(kind):
    image, shifts = noise(size=12), []
    before = hsv(image / 255)
    for found in jittered(kind, image, 12, hue=0.1):
        vivid = np.unravel_index(before[..., 1].argmax(), before.shape[:2])
        shifts.append((hsv(found)[vivid][0] - before[vivid][0] + 0.5) % 1 - 0.5)
        hue = (before[..., 0] + shifts[-1]) % 1
        np.testing.assert_allclose(found, rgb(np.concatenate([hue[..., None], before[..., 1:]], -1)), atol=1e-4)
    assert max(np.abs(shifts)) <= 0.1 + 1e-4 and max(shifts) - min(shifts) > 0.05
