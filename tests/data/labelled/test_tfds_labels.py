"""Labelled splits of TFDS: a small real data set that TFDS writes and reads, and names that open nothing."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import centre_batches, open_labelled
from univip_jax.data.labelled.tfds_labels import classes_in_photo

# The objects of six photos: a class, and whether it is difficult.
OBJECTS = [[(0, False)], [(2, False), (2, True)], [(1, True), (0, False)], [], [(1, True), (1, True)], [(2, False)]]


class Painted(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Six photos whose grey level is their number, with VOC's objects, a class each, or neither."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=name) for name in ("objects", "one", "none"))

    def _info(self):
        label = tfds.features.ClassLabel(names=["cat", "dog", "hen"])
        more = {
            "objects": {"objects": tfds.features.Sequence({"label": label, "is_difficult": np.bool_})},
            "one": {"label": label},
            "none": {"caption": tfds.features.Text()},
        }
        features = {"image": tfds.features.Image(encoding_format="png"), **more[self.builder_config.name]}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(4)), "validation": self._generate_examples(range(4, 6))}

    def _generate_examples(self, numbers):
        for number in numbers:
            objects = [{"label": label, "is_difficult": is_difficult} for label, is_difficult in OBJECTS[number]]
            more = {"objects": {"objects": objects}, "one": {"label": number % 3}, "none": {"caption": "a photo"}}
            yield number, {"image": np.full((20, 30, 3), number, np.uint8), **more[self.builder_config.name]}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for config in Painted.BUILDER_CONFIGS:
        Painted(config=config, data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture
def real(data_dir, monkeypatch):
    """TFDS with the data set in its folder, as TFDS_DATA_DIR makes it, and without its code."""
    builder = tfds.builder
    monkeypatch.setattr(tfds, "builder", lambda name: builder(name, data_dir=data_dir))


def by_number(name: str) -> dict[int, object]:
    """A photo's label by its grey level: TFDS has an order of its own."""
    (batch,) = centre_batches(open_labelled(name), 8, 10)
    return {int(image[0, 0, 0]): label.tolist() for image, label in zip(*batch, strict=True)}


def test_open_tfds_with_objects(real):
    opened = open_labelled("painted/objects:train+validation")
    assert (opened.classes, opened.num_images, opened.is_multi_label) == (("cat", "dog", "hen"), 6, True)
    assert by_number("painted/objects:train+validation") == {
        0: [1, -1, -1],
        1: [-1, -1, 1],
        2: [1, 0, -1],
        3: [-1, -1, -1],
        4: [-1, 0, -1],
        5: [-1, -1, 1],
    }


def test_open_tfds_with_one_class_per_photo(real):
    assert by_number("painted/one:train") == {0: 0, 1: 1, 2: 2, 3: 0}
    assert by_number("painted/one:validation") == {4: 1, 5: 2}
    assert not open_labelled("painted/one:train").is_multi_label


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("painted/none:train", r"'painted/none' has no label, nor objects with is_difficult: caption, image"),
        ("painted/one:holdout", r"'painted/one:holdout' cannot be opened: .*holdout"),
        ("nothing_of_that_name:train", r"'nothing_of_that_name:train' cannot be opened: "),
        ("nowhere", r"labelled set 'nowhere' is neither a folder nor a TFDS name with its split"),
        (":train", r"labelled set ':train' is neither a folder nor a TFDS name with its split"),
    ],
)
def test_open_labelled_refuses_unknown_names(real, name, message):
    with pytest.raises(UserError, match=message):
        open_labelled(name)


def test_classes_in_photo_by_hand():
    """Of classes 0..3: twice 0, once difficult; 1 difficult alone; 3 clear."""
    found = classes_in_photo(np.array([0, 1, 0, 3]), np.array([True, True, False, False]), 4)
    np.testing.assert_array_equal(found, [1, 0, -1, 1])
    assert found.dtype == np.int8
