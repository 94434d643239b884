"""Subsets by a list of names, as SimCLR publishes, and drawn by seed."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import Labelled, centre_batches, open_labelled
from univip_jax.data.labelled.subset import drawn_subset, named_subset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """30 photos of n01, 10 of n02 and 2 of n03, named as ImageNet's; one name is in two classes."""
    root = tmp_path_factory.mktemp("folder")
    for name, count in (("n01", 30), ("n02", 10), ("n03", 2)):
        (root / name).mkdir()
        for index in range(count):
            Image.new("RGB", (8, 8)).save(root / name / f"{name}_{index}.JPEG", "JPEG")
    for name in ("n01", "n02"):
        Image.new("RGB", (8, 8)).save(root / name / "same.JPEG", "JPEG")
    return root


def photos(labelled):
    """(path within the folder, label) of each."""
    pairs = labelled.examples.as_numpy_iterator()
    return [("/".join(path.decode().rsplit("/", 2)[1:]), int(label)) for path, label in pairs]


def by_list(folder, tmp_path, *lines):
    (tmp_path / "list.txt").write_text("\n".join(lines))
    return named_subset(open_labelled(str(folder)), tmp_path / "list.txt")


def test_named_subset_by_file_names_and_paths(folder, tmp_path):
    subset = by_list(folder, tmp_path, "n03_1.JPEG", "n01_10.JPEG\r", "", "n01/same.JPEG", "n02_0.JPEG")
    expected = [("n01/n01_10.JPEG", 0), ("n01/same.JPEG", 0), ("n02/n02_0.JPEG", 1), ("n03/n03_1.JPEG", 2)]
    assert sorted(photos(subset)) == expected
    assert subset.num_images == 4 and subset.classes == ("n01", "n02", "n03")
    assert next(centre_batches(subset, 4, 8)).images.shape == (4, 4, 4, 3)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["n01_0.JPEG", "n09_0.JPEG", "n01_31.JPEG", "a", "b"], r"names 4 .* \(n09_0.*, n01_31.*, a and 1 more\)"),
        (["n01_0.JPEG", "same.JPEG"], r"gives 1 file names that several photos .* \(same.JPEG\)"),
        (["n01_0.JPEG", "n02_0.JPEG", "n03_0.JPEG", "n02/n02_0.JPEG"], r"names 1 photos more than once.*n02_0.JPEG\)"),
        (["n01_0.JPEG", "n01_1.JPEG"], r"names no photo of 2 of the classes .* \(n02, n03\)"),
    ],
)  # fmt: skip
def test_named_subset_refuses_a_list_that_does_not_fit(folder, tmp_path, lines, message):
    with pytest.raises(UserError, match=message) as error:
        by_list(folder, tmp_path, *lines)
    assert "\n" not in str(error.value)


def test_named_subset_refuses_a_missing_list_or_encoded_photos(folder, tmp_path):
    with pytest.raises(UserError, match=r"data.subset=nowhere.txt must be a text file"):
        named_subset(open_labelled(str(folder)), tmp_path.__class__("nowhere.txt"))
    encoded = open_labelled(str(folder))._replace(is_encoded=True)
    with pytest.raises(UserError, match="its photos have no names"):
        named_subset(encoded, tmp_path / "list.txt")


@pytest.mark.parametrize(("percent", "counts"), [(10, {0: 3, 1: 1, 2: 1}), (50, {0: 16, 1: 6, 2: 1})])
def test_drawn_subset_has_a_share_of_each_class(folder, percent, counts):
    """Of 31, 11 and 2 photos: round(3.1), round(1.1), at least 1; round(15.5) is 16, of 5.5 it is 6."""
    whole = open_labelled(str(folder))
    subset = drawn_subset(whole, percent, seed=0)
    found = photos(subset)
    assert Counter(label for _, label in found) == counts and len(set(found)) == subset.num_images
    assert found == photos(drawn_subset(whole, percent, seed=0)) != photos(drawn_subset(whole, percent, seed=1))
    assert subset.fingerprint == drawn_subset(whole, percent, seed=0).fingerprint != whole.fingerprint


def test_drawn_subset_of_encoded_photos_is_the_same(folder):
    """As a TFDS set of the same order would hold them."""
    whole = open_labelled(str(folder))
    encoded = Labelled(
        *whole[:3], whole.examples.map(lambda path, label: (tf.io.read_file(path), label)), True, whole.fingerprint
    )
    drawn = drawn_subset(encoded, 10, seed=3)
    labels = [int(label) for _, label in drawn.examples]
    assert labels == [label for _, label in photos(drawn_subset(whole, 10, seed=3))]
    assert next(centre_batches(drawn, 4, 8)).labels.tolist() == labels
    assert np.bincount(labels).tolist() == [3, 1, 1]
