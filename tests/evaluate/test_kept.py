"""Kept features: the same as computed anew, gone on with after an interruption, and never used where damaged."""

import shutil
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from configs import knn
from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import centre_batches, open_labelled, view_batches
from univip_jax.evaluate import kept
from univip_jax.evaluate.features import extract
from univip_jax.evaluate.kept import CENTRE, SQUASHED, kept_features
from univip_jax.weights.encoder import open_encoder


@pytest.fixture(scope="module")
def encoder():
    config = knn.get_config()
    config.pretrained, config.image_size = "random", 32
    config.model.backbone, config.model.width, config.model.stem = "resnet10", 0.125, "small"
    return open_encoder(config)


@pytest.fixture
def keep(encoder, labelled, tmp_path):
    """Keeps features of 24 photos, 4 at a time."""
    return partial(kept_features, tmp_path, encoder, open_labelled(str(labelled)), CENTRE, image_size=32, batch_size=4)


def no_photos(*_, **__):
    raise AssertionError("photos were read")


def test_they_are_those_of_extract_and_read_once(keep, encoder, labelled, monkeypatch):
    expected = extract(encoder, open_labelled(str(labelled)), 32, 4)
    found = keep()
    np.testing.assert_array_equal(found.features, expected.features)
    np.testing.assert_array_equal(found.labels, expected.labels)
    monkeypatch.setattr(kept, "view_batches", no_photos)
    np.testing.assert_array_equal(keep().features, expected.features)


def test_an_interrupted_pass_goes_on_where_it_was(keep, tmp_path, monkeypatch):
    """After 8 photos and a part of the ninth's row."""
    whole = keep()
    (path,), (digest,) = tmp_path.glob("features/*.rows"), tmp_path.glob("features/*.sha256")
    expected, told, starts = path.read_bytes(), digest.read_text(), []
    digest.unlink()
    path.write_bytes(expected[: len(expected) * 8 // 24 + 100])

    def watch(*args, start, **kwargs):
        starts.append(start)
        return view_batches(*args, start=start, **kwargs)

    monkeypatch.setattr(kept, "view_batches", watch)
    np.testing.assert_array_equal(keep().features, whole.features)
    assert (starts, path.read_bytes(), digest.read_text()) == ([8], expected, told)


def test_damaged_features_are_computed_again(keep, tmp_path, capsys):
    expected = np.array(keep().features)
    (path,) = tmp_path.glob("features/*.rows")
    flipped = bytearray(path.read_bytes())
    flipped[1000] ^= 1
    path.write_bytes(flipped)
    np.testing.assert_array_equal(keep().features, expected)
    assert f"the kept features {path} are damaged: computing them again" in capsys.readouterr().err


def test_other_photos_weights_and_views_have_features_of_their_own(keep, encoder, labelled, tmp_path):
    keep()
    copy = shutil.copytree(labelled, tmp_path / "copy")
    shutil.copy(copy / "light" / "0.png", copy / "dark" / "0.png")
    other = open_labelled(str(copy))
    kept_features(tmp_path, encoder, other, CENTRE, image_size=32, batch_size=4)
    kept_features(tmp_path, encoder, other, SQUASHED, image_size=32, batch_size=4)
    encoder.variables["params"]["conv1"]["kernel"] = 2 * encoder.variables["params"]["conv1"]["kernel"]
    keep()
    assert len(list(tmp_path.glob("features/*.rows"))) == 4


def test_squashed_features_are_the_means_of_four_windows_of_res5(encoder, labelled, tmp_path):
    """48 px: res5 is 3 x 3, and each window 2 x 2."""
    whole = open_labelled(str(labelled))
    found = kept_features(tmp_path, encoder, whole, SQUASHED, image_size=48, batch_size=24)
    images = next(view_batches(whole, SQUASHED.view, 48, 24)).images
    res5 = np.asarray(encoder.stages(encoder.variables, jnp.asarray(images))[-1])
    assert res5.shape == (24, 3, 3, 64)
    windows = [res5[:, y : y + 2, x : x + 2].mean((1, 2)) for y in (0, 1) for x in (0, 1)]
    np.testing.assert_allclose(found.features, np.concatenate(windows, 1), rtol=1e-4, atol=1e-5)
    assert next(centre_batches(whole, 48, 24)).images.shape == images.shape
    assert not np.array_equal(next(centre_batches(whole, 48, 24)).images, images)


def test_photos_too_small_for_the_pool_are_refused(encoder, labelled, tmp_path):
    with pytest.raises(UserError, match="image_size=16 is too small: res5 is 1 x 1"):
        kept_features(tmp_path, encoder, open_labelled(str(labelled)), SQUASHED, image_size=16, batch_size=4)
