"""Labelled sets: fingerprints, parts held out of them, views of their photos, and what can be wrong with them."""

import shutil

import numpy as np
import pytest
from PIL import Image

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import centre_batches, hold_out, open_labelled, open_pair, view_batches
from univip_jax.data.labelled.views import squash


def examples(labelled):
    return [(path.decode(), int(label)) for path, label in labelled.examples.as_numpy_iterator()]


def test_parts_are_the_set_once(labelled):
    whole = open_labelled(str(labelled))
    rest, held_out = hold_out(whole, 5, seed=3)
    assert (rest.num_images, held_out.num_images) == (19, 5)
    assert len(examples(held_out)) == 5
    assert sorted(examples(rest) + examples(held_out)) == sorted(examples(whole))


def test_seed_decides_the_part(labelled):
    whole = open_labelled(str(labelled))
    first, again, other = (examples(hold_out(whole, 5, seed=seed)[1]) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("number", [0, 24, 25])
def test_no_part_is_empty(labelled, number):
    with pytest.raises(UserError, match=f"{number} photos cannot be held out of the 24"):
        hold_out(open_labelled(str(labelled)), number, seed=0)


def test_fingerprint_tells_content_not_place(labelled, tmp_path):
    copy = shutil.copytree(labelled, tmp_path / "copy")
    before = open_labelled(str(labelled)).fingerprint
    assert open_labelled(str(copy)).fingerprint == before
    (copy / "dark" / "0.png").write_bytes(b"another")
    assert open_labelled(str(copy)).fingerprint != before
    parts = hold_out(open_labelled(str(labelled)), 5, seed=0)
    assert len({before, *(part.fingerprint for part in parts)}) == 3
    assert np.unique([hold_out(open_labelled(str(labelled)), 5, seed)[1].fingerprint for seed in range(4)]).size == 4


@pytest.mark.parametrize(("height", "width"), [(37, 91), (120, 64)])
def test_squash_is_pil_s_resize_to_256_and_then_to_the_square(height, width):
    """PIL rounds its coefficients to 8 bits: one level."""
    photo = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    photo = Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC)
    side = 64 * min(height, width) // min(height, width), 64 * max(height, width) // min(height, width)
    between = photo.resize(side if height > width else side[::-1], Image.Resampling.BILINEAR)
    expected = np.asarray(between.resize((56, 56), Image.Resampling.BILINEAR)).astype(int)
    found = squash(np.asarray(photo), 56).numpy()
    assert found.shape == (56, 56, 3)
    assert np.abs(found - expected).max() <= 2
    assert np.abs(found - expected).mean() < 0.3


def test_parts_of_processes_are_each_photo_once(labelled):
    """22 photos from the third on, 5 at once in each of 2 processes: the first has batches 0, 2 and 4."""
    whole = open_labelled(str(labelled))
    expected = next(view_batches(whole, squash, 8, 24)).images[2:]
    for index, rows in ((0, [*range(5), *range(10, 15), 20, 21]), (1, [*range(5, 10), *range(15, 20)])):
        found = list(view_batches(whole, squash, 8, 5, start=2, part=(index, 2)))
        np.testing.assert_array_equal(np.concatenate([batch.images for batch in found]), expected[rows])
        np.testing.assert_array_equal(np.concatenate([b.labels for b in found]), (np.array(rows) + 2) // 12)


@pytest.fixture
def copy(labelled, tmp_path):
    return shutil.copytree(labelled, tmp_path / "copy")


def test_one_class_is_refused(copy):
    shutil.rmtree(copy / "dark")
    with pytest.raises(UserError, match="copy has 1 classes; an evaluation needs at least 2"):
        open_labelled(str(copy))


def test_empty_class_folders_are_counted_and_named(copy):
    for name in ("empty", "void"):
        (copy / name).mkdir()
    (copy / "void" / "notes.txt").write_text("no photo")
    with pytest.raises(
        UserError, match=r"2 of the 4 class folders of .* hold no photo .*: empty, void; fill or remove"
    ):
        open_labelled(str(copy))


def test_all_photos_that_cannot_be_decoded_are_counted_and_named(copy):
    for name in ("dark/3.png", "light/0.png", "light/11.png", "light/5.png"):
        (copy / name).write_bytes((copy / name).read_bytes()[:100] if name == "dark/3.png" else b"no photo")
    message = r"4 of the 24 .* cannot be read or decoded: .*dark/3\.png, .*light/0\.png, .*light/11\.png and 1 more;"
    with pytest.raises(UserError, match=message):
        list(centre_batches(open_labelled(str(copy)), 8, 4))


def test_a_photo_that_is_gone_is_named(copy):
    opened = open_labelled(str(copy))
    (copy / "light" / "7.png").unlink()
    with pytest.raises(UserError, match=r"1 of the 24 photos .*light/7\.png; remove or replace"):
        list(centre_batches(opened, 8, 4))


def test_classes_that_differ_are_named(labelled, copy):
    (copy / "dark").rename(copy / "dim")
    with pytest.raises(UserError, match=r"different classes: 'dark' is only in .*, 'dim' is only in .*copy$"):
        open_pair(str(labelled), str(copy))


def test_photos_of_several_classes_are_for_svms(voc):
    with pytest.raises(UserError, match=r"trainval show several classes; this is for configs/svm\.py"):
        open_pair(f"{voc}:trainval", f"{voc}:test")
    assert open_pair(f"{voc}:trainval", f"{voc}:test", allow_multi_label=True)[0].is_multi_label
