"""Cached features: equal to features computed anew, resumed after an interruption, and never used when damaged."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from configs import knn
from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import Labelled, centre_batches, open_labelled, view_batches
from univip_jax.evaluate import features
from univip_jax.evaluate.features import CENTRE, SQUASHED, Readout, cached_features, extract
from univip_jax.evaluate.task import Task
from univip_jax.types import Features
from univip_jax.weights.encoder import open_encoder


@pytest.fixture(scope="module")
def encoder():
    config = knn.get_config()
    config.pretrained, config.image_size = "random", 32
    config.model.backbone, config.model.width, config.model.stem = "resnet10", 0.125, "small"
    return open_encoder(config)


@pytest.fixture
def cached(encoder, labelled, tmp_path):
    """Caches features of 24 photos, 4 at a time."""
    whole = open_labelled(str(labelled))

    def cache(
        labelled: Labelled = whole, readout: Readout = CENTRE, size: int = 32, workdir: Path = tmp_path
    ) -> Features:
        return cached_features(Task(encoder, labelled, labelled, size, 4, workdir), labelled, readout)

    return cache


def no_photos(*_, **__):
    raise AssertionError("photos were read")


def test_cached_features_equal_extracted_ones_and_are_computed_once(cached, encoder, labelled, monkeypatch):
    expected = extract(encoder, open_labelled(str(labelled)), 32, 4)
    found = cached()
    np.testing.assert_array_equal(found.features, expected.features)
    np.testing.assert_array_equal(found.labels, expected.labels)
    monkeypatch.setattr(features, "view_batches", no_photos)
    np.testing.assert_array_equal(cached().features, expected.features)


def test_feature_cache_resumes_behind_the_last_whole_row(cached, tmp_path, monkeypatch):
    """After 8 photos and a part of the ninth's row."""
    whole = cached()
    (path,), (digest,) = tmp_path.glob("features/*.rows"), tmp_path.glob("features/*.sha256")
    expected, sha256, starts = path.read_bytes(), digest.read_text(), []
    digest.unlink()
    path.write_bytes(expected[: len(expected) * 8 // 24 + 100])

    def watch(*args, start, **kwargs):
        starts.append(start)
        return view_batches(*args, start=start, **kwargs)

    monkeypatch.setattr(features, "view_batches", watch)
    np.testing.assert_array_equal(cached().features, whole.features)
    assert (starts, path.read_bytes(), digest.read_text()) == ([8], expected, sha256)


def test_damaged_feature_cache_is_computed_again(cached, tmp_path, capsys):
    expected = np.array(cached().features)
    (path,) = tmp_path.glob("features/*.rows")
    flipped = bytearray(path.read_bytes())
    flipped[1000] ^= 1
    path.write_bytes(flipped)
    np.testing.assert_array_equal(cached().features, expected)
    assert f"the feature cache {path} is damaged: computing it again" in capsys.readouterr().err


def test_other_photos_weights_and_views_have_caches_of_their_own(cached, encoder, labelled, tmp_path):
    cached()
    copy = shutil.copytree(labelled, tmp_path / "copy")
    shutil.copy(copy / "light" / "0.png", copy / "dark" / "0.png")
    other = open_labelled(str(copy))
    cached(other)
    cached(other, SQUASHED)
    kernel = encoder.variables["params"]["conv1"]["kernel"]
    encoder.variables["params"]["conv1"]["kernel"] = 2 * kernel
    cached()
    encoder.variables["params"]["conv1"]["kernel"] = kernel
    assert len(list(tmp_path.glob("features/*.rows"))) == 4


def test_squashed_features_are_the_means_of_four_windows_of_res5(cached, encoder, labelled):
    """48 px: res5 is 3 x 3, and each window 2 x 2."""
    whole = open_labelled(str(labelled))
    found = cached(whole, SQUASHED, 48)
    images = next(view_batches(whole, SQUASHED.view, 48, 24)).images
    res5 = np.asarray(encoder.stages(encoder.variables, jnp.asarray(images))[-1])
    assert res5.shape == (24, 3, 3, 64)
    windows = [res5[:, y : y + 2, x : x + 2].mean((1, 2)) for y in (0, 1) for x in (0, 1)]
    np.testing.assert_allclose(found.features, np.concatenate(windows, 1), rtol=1e-4, atol=1e-5)
    assert next(centre_batches(whole, 48, 24)).images.shape == images.shape
    assert not np.array_equal(next(centre_batches(whole, 48, 24)).images, images)


def test_images_too_small_for_the_pool_are_refused(cached):
    with pytest.raises(UserError, match="image_size is too small: res5 is 1 x 1"):
        cached(readout=SQUASHED, size=16)
