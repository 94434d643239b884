"""Each operation but the colours (test_color_jitter.py) against Pillow or SciPy; then the draws."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage

from configs import coco
from univip_jax.augment import AugmentSpec, augment_batch, gaussian_blur, normalize_pixels
from univip_jax.common.errors import UserError
from univip_jax.config import to_spec

IMAGENET_MEAN, IMAGENET_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
RECIPE = to_spec(AugmentSpec, coco.get_config(), "augment")
PLAIN = replace(
    RECIPE,
    flip=0.0,
    jitter=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    greyscale=0.0,
    blur=(0.0, 0.0),
    solarize=(0.0, 0.0),
)
ALL_JITTERED = replace(RECIPE, jitter=1.0)
N = 32
QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time; nothing here runs for long
augmented = jax.jit(augment_batch, static_argnames=("spec", "view"), compiler_options=QUICK)


def pixels(x) -> np.ndarray:
    """Back from the normalisation: values in [0, 1]."""
    return np.asarray(x, np.float64) * IMAGENET_STD + IMAGENET_MEAN


def noise(low: int = 0, high: int = 256, size: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (size, size, 3), np.uint8)


def copies(image: np.ndarray, count: int = N) -> np.ndarray:
    return np.tile(image, (count, 1, 1, 1))


def run(image: np.ndarray, view: int = 0, count: int = N, seed: int = 0, **fields) -> np.ndarray:
    """`count` augmentations of one image by PLAIN with these fields, as pixels in [0, 1]."""
    spec = replace(PLAIN, **fields)
    return pixels(augmented(jax.random.key(seed), copies(image, count), spec=spec, view=view))


def test_normalize_pixels_by_hand():
    image = np.array([[[0, 0, 0], [255, 255, 255], [128, 10, 77]]], np.uint8)
    expected = [
        [
            -IMAGENET_MEAN / IMAGENET_STD,
            (1 - IMAGENET_MEAN) / IMAGENET_STD,
            (np.array([128, 10, 77]) / 255 - IMAGENET_MEAN) / IMAGENET_STD,
        ]
    ]
    found = normalize_pixels(jnp.asarray(image))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("view", [0, 1])
def test_with_probabilities_of_zero_only_the_normalisation_is_left(view):
    image = noise()
    spec = replace(RECIPE, flip=0.0, jitter=0.0, greyscale=0.0, blur=(0.0, 0.0), solarize=(0.0, 0.0))
    found = augmented(jax.random.key(0), copies(image, 3), spec=spec, view=view)
    np.testing.assert_allclose(found, copies(np.asarray(normalize_pixels(jnp.asarray(image))), 3), atol=1e-6)


def test_normalised_pixels_are_not_clipped():
    """Black is -2.1 in red, white 2.6 in blue; a clip to [0, 1] after the normalisation would lose most of a photo."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4] = 255
    found = np.asarray(augmented(jax.random.key(0), copies(image, 4), spec=replace(RECIPE, jitter=0.0), view=0))
    np.testing.assert_allclose(found.min((0, 1, 2)), -IMAGENET_MEAN / IMAGENET_STD, atol=1e-5)
    np.testing.assert_allclose(found.max((0, 1, 2)), (1 - IMAGENET_MEAN) / IMAGENET_STD, atol=1e-5)
    assert found.min() < -2 and found.max() > 2.6


def test_flip_is_pillows_mirror():
    image = noise()
    expected = np.asarray(ImageOps.mirror(Image.fromarray(image))) / 255
    np.testing.assert_allclose(run(image, count=2, flip=1.0), copies(expected, 2), atol=1e-5)


def test_greyscale_is_pillows():
    """Pillow rounds to a level and has 0.299 where TensorFlow and BYOL have 0.2989."""
    image = noise()
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float64) / 255
    found = run(image, count=2, greyscale=1.0)
    np.testing.assert_allclose(found, copies(np.stack([grey] * 3, -1), 2), atol=1 / 255)


def test_solarize_is_pillows_at_128_on_every_level():
    image = np.arange(256 * 3, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8)
    assert len(np.unique(image)) == 256
    expected = np.asarray(ImageOps.solarize(Image.fromarray(image), threshold=128)) / 255
    np.testing.assert_allclose(run(image, view=1, count=2, solarize=(0.0, 1.0)), copies(expected, 2), atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "side", "radius"),
    [("sigma", 12, 6), ("sigma", 96, 6), ("byol", 12, 0), ("byol", 20, 1), ("byol", 64, 3), ("byol", 224, 11)],
)
@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_blur_is_scipys_with_repeated_edges(kernel, side, radius, sigma):
    """2 * radius + 1 taps: 3 of the largest sigma, as for SciPy's truncate=3, or a tenth of the side, made odd."""
    image = noise(size=side)
    expected = ndimage.gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest", radius=(radius, radius, 0))
    spec = replace(RECIPE, blur_sigma=(0.1, 2.0), blur_kernel=kernel)
    assert spec.blur_radius(side) == radius
    found = jax.jit(gaussian_blur, static_argnums=2)(image / np.float32(255), jnp.float32(sigma), radius)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_sigma_of_2_blurs_an_image_of_12_px_as_scipy_does_and_byols_kernel_leaves_it():
    image, options = noise(size=12), {"count": 1, "blur": (1.0, 0.0), "blur_sigma": (2.0, 2.0)}
    expected = ndimage.gaussian_filter(image / 255, (2, 2, 0), mode="nearest", truncate=3)
    assert np.abs(expected - image / 255).max() > 0.3
    np.testing.assert_allclose(run(image, blur_kernel="sigma", **options)[0], expected, atol=1e-5)
    np.testing.assert_allclose(run(image, blur_kernel="byol", **options)[0], image / 255, atol=1e-5)


def test_blur_is_about_pillows():
    """Pillow approximates a Gaussian by three box filters, and rounds."""
    coarse = Image.fromarray(noise(size=24)).resize((96, 96), Image.Resampling.BICUBIC)
    expected = np.asarray(coarse.filter(ImageFilter.GaussianBlur(1.5)), np.float64)
    found = 255 * np.asarray(gaussian_blur(jnp.asarray(coarse, jnp.float32) / 255, jnp.float32(1.5), 6))
    assert np.abs(found - expected).max() < 6
    assert np.abs(expected - np.asarray(coarse, float)).max() > 30


def test_blur_draws_each_sigma_from_its_range():
    """Each output is SciPy's blur for one sigma of the range, found by search."""
    image = noise(size=40)
    found = run(image, count=8, blur=(1.0, 0.0), blur_sigma=(0.5, 1.5), blur_kernel="byol")
    sigmas = np.linspace(0.45, 1.55, 221)
    blurred = np.stack(
        [ndimage.gaussian_filter(image / 255, (s, s, 0), mode="nearest", radius=(2, 2, 0)) for s in sigmas]
    )
    distance = np.abs(found[:, None] - blurred[None]).max((2, 3, 4))
    assert distance.min(1).max() < 5e-3  # a step of the search
    drawn = sigmas[distance.argmin(1)]
    assert (drawn > 0.49).all() and (drawn < 1.51).all() and drawn.std() > 0.1


@pytest.mark.parametrize("color", ["torchvision", "byol"])
def test_equal_images_of_a_batch_come_out_pairwise_different(color):
    """One draw for a whole batch was a mistake of the public attempt at this paper. All are jittered here."""
    spec = replace(ALL_JITTERED, color=color)
    found = np.asarray(augmented(jax.random.key(0), copies(noise()), spec=spec, view=0)).reshape(N, -1)
    assert (np.abs(found[:, None] - found[None]).max(-1) + np.eye(N) > 1e-4).all()


def test_equal_keys_give_equal_images_and_others_do_not():
    found = [np.asarray(augmented(jax.random.key(k), copies(noise()), spec=ALL_JITTERED, view=0)) for k in (1, 1, 2)]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 0.1


def test_scene_two_alone_solarizes():
    """White turns black; no other operation is on."""
    image = np.full((8, 8, 3), 255, np.uint8)
    for solarize in [(0.0, 1.0), (0.0, 0.5)]:
        first, second = (run(image, view=view, count=200, solarize=solarize)[:, 0, 0, 0] for view in (0, 1))
        np.testing.assert_allclose(first, 1.0, atol=1e-5)
        assert set(np.round(second, 4)) <= {0.0, 1.0}
        share = (second < 0.5).mean()
        assert share == 1.0 if solarize[1] == 1 else 0.35 < share < 0.65


def test_probabilities_are_met_over_many_images():
    """Five deviations of a binomial of 1000 draws: 0.08 at most."""
    ramp = np.stack([np.tile(np.arange(8) * 30, (8, 1)), np.full((8, 8), 60), np.full((8, 8), 200)], -1)
    ramp, options = ramp.astype(np.uint8), {"count": 1000}
    flipped = run(ramp, flip=0.5, **options)
    assert abs((flipped[:, 0, 0, 0] > 0.5).mean() - 0.5) < 0.08
    grey = run(ramp, greyscale=0.2, **options)
    assert abs((np.ptp(grey, axis=-1).max((1, 2)) < 1e-4).mean() - 0.2) < 0.065
    bright = run(ramp, jitter=0.8, color="byol", brightness=0.4, **options)
    assert abs((np.abs(bright - ramp / 255).max((1, 2, 3)) > 1e-4).mean() - 0.8) < 0.065


@pytest.mark.parametrize(
    ("field", "value"),
    [("flip", 1.5), ("greyscale", -0.1), ("blur", (1.0, 2.0)), ("color", "orl"), ("blur_kernel", "")],
)
def test_a_bad_spec_is_refused(field, value):
    with pytest.raises(UserError, match=f"augment.*{field}"):
        replace(RECIPE, **{field: value})
