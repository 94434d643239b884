"""Labelled sets: fingerprints, parts held out of them, views of their photos, and what can be wrong with them."""

import shutil

import numpy as np
import pytest
from PIL import Image

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import (
    centre_batches,
    hold_out,
    open_labelled,
    open_pair,
    training_batches,
    view_batches,
)
from univip_jax.data.labelled.views import squash


def examples(labelled):
    return [(path.decode(), int(label)) for path, label in labelled.examples.as_numpy_iterator()]


def test_hold_out_parts_make_up_the_set(labelled):
    whole = open_labelled(str(labelled))
    rest, held_out = hold_out(whole, 5, seed=3)
    assert (rest.num_images, held_out.num_images) == (19, 5)
    assert len(examples(held_out)) == 5
    assert sorted(examples(rest) + examples(held_out)) == sorted(examples(whole))


def test_hold_out_depends_on_the_seed(labelled):
    whole = open_labelled(str(labelled))
    first, again, other = (examples(hold_out(whole, 5, seed=seed)[1]) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("number", [0, 24, 25])
def test_hold_out_refuses_an_empty_part(labelled, number):
    with pytest.raises(UserError, match=f"{number} photos cannot be held out of the 24"):
        hold_out(open_labelled(str(labelled)), number, seed=0)


def test_fingerprint_depends_on_contents_alone(labelled, tmp_path):
    copy = shutil.copytree(labelled, tmp_path / "copy")
    before = open_labelled(str(labelled)).fingerprint
    assert open_labelled(str(copy)).fingerprint == before
    (copy / "dark" / "0.png").write_bytes(b"another")
    assert open_labelled(str(copy)).fingerprint != before
    parts = hold_out(open_labelled(str(labelled)), 5, seed=0)
    assert len({before, *(part.fingerprint for part in parts)}) == 3
    assert np.unique([hold_out(open_labelled(str(labelled)), 5, seed)[1].fingerprint for seed in range(4)]).size == 4


@pytest.mark.parametrize(("height", "width"), [(37, 91), (120, 64)])
def test_squash_equals_two_resizes_by_pillow(height, width):
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


def test_view_batches_of_two_processes_cover_the_set_once(labelled):
    """22 photos from the third on, 5 at once in each of 2 processes: the first has batches 0, 2 and 4."""
    whole = open_labelled(str(labelled))
    expected = next(view_batches(whole, squash, 8, 24)).images[2:]
    for index, rows in ((0, [*range(5), *range(10, 15), 20, 21]), (1, [*range(5, 10), *range(15, 20)])):
        found = list(view_batches(whole, squash, 8, 5, start=2, part=(index, 2)))
        np.testing.assert_array_equal(np.concatenate([batch.images for batch in found]), expected[rows])
        np.testing.assert_array_equal(np.concatenate([b.labels for b in found]), (np.array(rows) + 2) // 12)


def test_training_batches_by_rows_and_epochs(labelled):
    """Two processes feed the batches of one; epochs differ, and any may be the first."""
    train = open_labelled(str(labelled))._replace(num_images=23)  # 5 batches of 4

    def batches(**options):
        return list(training_batches(train, 16, 4, seed=1, num_epochs=2, **options))

    whole, second = batches(), batches(start_epoch=1)
    assert len(whole) == 10 and not np.array_equal(whole[0].images, whole[5].images)
    for batch, again in zip(whole[5:], second, strict=True):
        np.testing.assert_array_equal(again.images, batch.images)
    for rows in ([0, 1, 3], [2]):
        for batch, part in zip(whole, batches(rows=np.array(rows)), strict=True):
            np.testing.assert_array_equal(part.images, batch.images[rows])
            np.testing.assert_array_equal(part.labels, batch.labels[rows])


@pytest.fixture
def copy(labelled, tmp_path):
    return shutil.copytree(labelled, tmp_path / "copy")


def test_open_labelled_refuses_one_class(copy):
    shutil.rmtree(copy / "dark")
    with pytest.raises(UserError, match="copy has 1 classes; an evaluation needs at least 2"):
        open_labelled(str(copy))


def test_open_labelled_names_empty_class_folders(copy):
    for name in ("empty", "void"):
        (copy / name).mkdir()
    (copy / "void" / "notes.txt").write_text("no photo")
    with pytest.raises(
        UserError, match=r"2 of the 4 class folders of .* hold no photo .*: empty, void; fill or remove"
    ):
        open_labelled(str(copy))


def test_centre_batches_name_all_undecodable_photos(copy):
    for name in ("dark/3.png", "light/0.png", "light/11.png", "light/5.png"):
        (copy / name).write_bytes((copy / name).read_bytes()[:100] if name == "dark/3.png" else b"no photo")
    message = (
        r"4 of the 24 .* cannot be read or decoded: .*dark/3\.png \(damaged: image file is truncated.*\), "
        r".*light/0\.png \(not an image\), .*light/11\.png \(not an image\) and 1 more;"
    )
    with pytest.raises(UserError, match=message):
        list(centre_batches(open_labelled(str(copy)), 8, 4))


def test_centre_batches_name_a_missing_photo(copy):
    opened = open_labelled(str(copy))
    (copy / "light" / "7.png").unlink()
    with pytest.raises(UserError, match=r"1 of the 24 .*7\.png \(No such file or directory\); remove or replace"):
        list(centre_batches(opened, 8, 4))


def test_open_pair_names_classes_that_differ(labelled, copy):
    (copy / "dark").rename(copy / "dim")
    with pytest.raises(UserError, match=r"different classes: 'dark' is only in .*, 'dim' is only in .*copy$"):
        open_pair(str(labelled), str(copy))


def test_open_pair_refuses_photos_of_several_classes(voc):
    with pytest.raises(UserError, match=r"trainval show several classes; this is for configs/svm\.py"):
        open_pair(f"{voc}:trainval", f"{voc}:test")
    assert open_pair(f"{voc}:trainval", f"{voc}:test", allow_multi_label=True)[0].is_multi_label
