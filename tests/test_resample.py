"""Crops on the accelerator: against the plain formula in float64, and exact, whatever computes them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from univip_jax.resample import crop, interpolation_weights
from univip_jax.views import INTERPOLATIONS

BOXES = np.float32([[0, 0, 1, 1], [0.25, 0.1, 0.85, 0.7], [0.1, 0.3, 0.2, 0.45], [0.9, 0.93, 1, 1]])


def photo(height: int, width: int, coarse: int = 3) -> np.ndarray:
    """Edges and slopes of a few px, as photos have them."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (height // coarse, width // coarse, 3), np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def weights64(low: float, high: float, pixels: int, size: int, interpolation: str) -> np.ndarray:
    """The kernel at the pixels' centres, normalised: [size, pixels]."""
    step = (high - low) / size
    u = np.abs((np.arange(pixels) + 0.5) - ((np.arange(size) + 0.5) * step + low)[:, None]) / max(step, 1)
    if interpolation == "bilinear":
        found = np.maximum(1 - u, 0)
    else:
        outer = np.where(u < 2, -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2, 0)
        found = np.where(u < 1, 1.5 * u**3 - 2.5 * u**2 + 1, outer)
    return found / found.sum(1, keepdims=True)


def exact(image: np.ndarray, box: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """float64 [size, size, 3], neither rounded nor clipped."""
    edges = box.astype(np.float64) * np.tile(image.shape[:2], 2)
    rows, columns = (weights64(edges[a], edges[a + 2], image.shape[a], size, interpolation) for a in (0, 1))
    return np.einsum("rh,hwc,ow->roc", rows, image.astype(np.float64), columns, optimize=True)


@partial(jax.jit, static_argnums=(2, 3))
def crops_of(canvas, extent, sizes, interpolation, boxes=BOXES):
    return crop(canvas, extent, [(jnp.asarray(boxes), size) for size in sizes], interpolation)


def on_canvas(image: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    canvas = np.full((height, width, 3), 99, np.uint8)  # whatever lies beyond the photo must not count
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas.reshape(height, 3 * width), np.int32(image.shape[:2])


@pytest.mark.parametrize(("interpolation", "rms", "most"), [("bilinear", 0.40, 2.0), ("bicubic", 0.50, 2.8)])
def test_crops_are_those_of_the_formula_up_to_their_rounding(interpolation, rms, most):
    """Grey levels; rounding to uint8 alone gives 0.29 and 0.5. Shrunk 5 times, and enlarged 3 times."""
    image = photo(120, 160)
    for found, size in zip(crops_of(*on_canvas(image, 128, 160), (24, 48), interpolation), (24, 48), strict=True):
        assert found.shape == (4, size, size, 3) and found.dtype == jnp.uint8
        expected = np.stack([np.clip(exact(image, box, size, interpolation), 0, 255) for box in BOXES])
        error = np.asarray(found, float) - expected
        assert np.sqrt((error**2).mean()) < rms and np.abs(error).max() < most
        assert expected.std() > 20 and np.abs(error.mean()) < 0.05


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_all_between_pixels_and_crops_is_whole_and_small(interpolation):
    """bfloat16 has whole numbers up to 256 and even ones up to 512, float32 all up to 2^24: nothing is rounded by
    chance. The crops are those of NumPy's whole numbers."""
    image = photo(97, 120, coarse=1)
    canvas, extent = on_canvas(image, 112, 128)
    (found,) = crops_of(canvas, extent, (40,), interpolation)
    steps = 2 if interpolation == "bilinear" else 1
    for box, pixels in zip(BOXES, np.asarray(found), strict=True):
        edges = box * np.float32([97, 120, 97, 120])
        rows, columns = (
            np.asarray(
                interpolation_weights(*edges[[a, a + 2]], jnp.int32(extent[a]), 40, (112, 128)[a], interpolation)
            )
            for a in (0, 1)
        )
        for matrix in (rows, columns):
            np.testing.assert_array_equal(matrix.sum(1), 256)
            assert (np.abs(matrix) <= np.where(matrix % 2 == 0, 512, 256)).all() and (matrix % 1 == 0).all()
        planes = canvas.reshape(112, 128, 3).astype(np.int64) - 128
        between = np.round(np.einsum("rh,hwc->rwc", rows.astype(np.int64), planes) * steps / 256).astype(np.int64)
        assert np.abs(between).max() <= 256
        whole = np.einsum("rwc,ow->roc", between, columns.astype(np.int64))
        assert np.abs(whole).max() < 2**24
        np.testing.assert_array_equal(pixels, np.clip(np.round(whole / (256 * steps) + 128), 0, 255))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_canvas_does_not_enter(interpolation):
    image = photo(97, 120)
    for small, large in zip(
        crops_of(*on_canvas(image, 97, 120), (16, 40), interpolation),
        crops_of(*on_canvas(image, 160, 256), (16, 40), interpolation),
        strict=True,
    ):
        # The unit of a crop's place depends on the canvas: 1/4096 px against 1/8192.
        assert np.abs(np.asarray(small, int) - np.asarray(large)).max() <= 1
        assert np.mean(np.asarray(small) != np.asarray(large)) < 0.01


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (200, 2)])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_crops_of_a_thin_uniform_photo_are_uniform(height, width, interpolation):
    image = np.full((height, width, 3), 77, np.uint8)
    (found,) = crops_of(*on_canvas(image, 208, 208), (8,), interpolation)
    np.testing.assert_array_equal(found, np.full((4, 8, 8, 3), 77))


def test_a_checkerboard_is_anti_aliased_to_grey():
    """Pixels of 0 and 255 in turn, shrunk 8 times: plain bilinear sampling would give 0, 255 or stripes."""
    board = np.stack([(np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)] * 3, -1)
    (found,) = crops_of(*on_canvas(board, 128, 128), (16,), "bilinear")
    np.testing.assert_allclose(np.asarray(found, int)[0, 1:-1, 1:-1], 128, atol=3)


def test_a_crop_at_the_size_of_its_box_copies_the_pixels():
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    boxes = np.float32([[10 / 40, 16 / 64, 26 / 40, 32 / 64]])
    for interpolation in INTERPOLATIONS:
        (found,) = crops_of(*on_canvas(image, 40, 64), (16,), interpolation, boxes)
        np.testing.assert_array_equal(found[0], image[10:26, 16:32])
