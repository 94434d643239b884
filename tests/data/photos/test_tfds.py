"""TFDS: its own mocked data sets, and a small real one that is written and read back."""

import os

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data_prep.command import exit_code
from tests.data_prep.painted import paint
from univip_jax.common.errors import UserError
from univip_jax.data import records
from univip_jax.data.photos import sources
from univip_jax.data.photos import tfds as tfds_photos


class PaintedScenes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Painted photos with two annotated objects each, one of them a crowd: 10 in two files, 3 for validation."""

    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        objects = {
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(num_classes=9),
            "is_crowd": np.bool_,
        }
        features = {
            "image": tfds.features.Image(),
            "name": tfds.features.Text(),
            "objects": tfds.features.Sequence(objects),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(10)), "validation": self._generate_examples(range(10, 13))}

    def _generate_examples(self, numbers):
        for number in numbers:
            yield number, example(number)


def example(number):
    path = os.path.join(os.environ["PAINTED"], f"{number}.jpg")
    bbox = tfds.features.BBox(ymin=0.25, xmin=number / 20, ymax=0.75, xmax=1.0)
    objects = [{"bbox": bbox, "label": number % 9, "is_crowd": False}, {"bbox": bbox, "label": 1, "is_crowd": True}]
    return {"image": path, "name": f"{number}.jpg", "objects": objects}


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """Bytes of the photos by number."""
    folder = tmp_path_factory.mktemp("painted")
    for number in range(13):
        paint(number).save(folder / f"{number}.jpg", quality=80)
    os.environ["PAINTED"] = str(folder)
    yield [(folder / f"{number}.jpg").read_bytes() for number in range(13)]
    del os.environ["PAINTED"]


@pytest.fixture(scope="module")
def data_dir(painted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    builder = PaintedScenes(data_dir=folder)
    config = tfds.download.DownloadConfig(num_shards=2)
    builder.download_and_prepare(download_config=config)
    return folder


@pytest.fixture
def real(data_dir, monkeypatch):
    """TFDS with the small data set in its folder, as TFDS_DATA_DIR makes it, and without its code."""
    builder = tfds.builder
    monkeypatch.setattr(tfds, "builder", lambda name: builder(name, data_dir=data_dir))
    for cached in (tfds_photos._builder, tfds_photos._layout):
        cached.cache_clear()
    tfds_photos._reading.clear()
    yield
    for cached in (tfds_photos._builder, tfds_photos._layout):
        cached.cache_clear()


def test_tfds_bytes_and_annotations_survive_a_round_trip(real, painted):
    photos = tfds_photos.list_split("painted_scenes", "train")
    assert [photo.image_id for photo in photos[:2]] == [f"painted_scenes/1.2.0/train/0000000{i}" for i in range(2)]
    opened = [sources.open_photo(photo) for photo in photos]
    assert sorted(one.encoded for one in opened) == sorted(painted[:10])  # TFDS has an order of its own
    for one in opened:
        number = painted.index(one.encoded)
        np.testing.assert_allclose(one.objects.boxes, [[0.25, number / 20, 0.75, 1]] * 2, rtol=1e-6)
        assert (one.objects.labels.tolist(), one.objects.is_crowd.tolist()) == ([number % 9, 1], [False, True])


def test_tfds_photos_can_be_opened_in_any_order(real):
    photos = tfds_photos.list_split("painted_scenes", "train")
    in_order = [sources.open_photo(photo).encoded for photo in photos]
    for position in (7, 8, 2, 9, 0, 0):
        assert sources.open_photo(photos[position]).encoded == in_order[position]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[3:5]", ["train/00000003", "train/00000004"]),
        ("validation", [f"validation/0000000{i}" for i in range(3)]),
        ("train[:10%]+validation[-1:]", ["train/00000000", "validation/00000002"]),
    ],
)
def test_tfds_splits_give_their_ids(real, split, expected):
    found = tfds_photos.list_split("painted_scenes", split)
    assert [photo.image_id.removeprefix("painted_scenes/1.2.0/") for photo in found] == expected


def test_tfds_slices_equal_as_dataset(real):
    found = [sources.open_photo(one).encoded for one in tfds_photos.list_split("painted_scenes", "train[3:6]")]
    decoders = {"image": tfds.decode.SkipDecoding()}
    theirs = tfds.builder("painted_scenes").as_dataset(split="train[3:6]", decoders=decoders)
    assert found == [one["image"] for one in theirs.as_numpy_iterator()]


def test_command_prepares_and_checks_tfds_boxes_without_crowds(real, painted, tmp_path, capsys):
    flags = ["--source=tfds", "--dataset=painted_scenes", "--split=train", "--proposals=annotated", "--num_workers=1"]
    assert exit_code(*flags, f"--out={tmp_path / 'out'}") == 0
    assert exit_code(f"--check={tmp_path / 'out'}", "--num_workers=1") == 0
    dataset = records.open_dataset(tmp_path / "out")
    settings = dataset.manifest["settings"]
    assert (settings["source"], settings["dataset"], settings["split"]) == ("tfds", "painted_scenes:1.2.0", "train")
    parsed = [records.parse(one) for shard in dataset.shards for one in records.read_shard(shard)]
    assert len(parsed) == 10
    for one in parsed:
        number = painted.index(one["encoded"].numpy())
        np.testing.assert_allclose(one["proposals"], [[0.25, number / 20, 0.75, 1]], rtol=1e-6)
        assert one["is_crowd"].numpy().tolist() == [False, True]
    capsys.readouterr()
    assert exit_code(*flags, f"--out={tmp_path / 'out'}") == 0
    assert "already done: 10 records" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dataset", "split", "words"),
    [
        ("painted_scenes", "test", "--split=test cannot be opened"),
        ("painted_scenes", "train[9:9]", "holds no photos"),
        ("painted_scene", "train", "--dataset=painted_scene "),
    ],
)
def test_unknown_tfds_names_are_one_line(real, dataset, split, words):
    with pytest.raises(UserError, match=words.replace("[", r"\[")) as error:
        tfds_photos.list_split(dataset, split)
    assert "\n" not in str(error.value)


def mocked_info(name, data_dir, split, count):
    """Writes what TFDS would know of a data set after its download: the split's size."""
    builder = tfds.builder(name, data_dir=data_dir)
    template = tfds.core.ShardedFileTemplate(
        data_dir=builder.data_dir, dataset_name=builder.name, split=split, filetype_suffix="tfrecord"
    )
    info = tfds.core.SplitInfo(name=split, shard_lengths=[count], num_bytes=1, filename_template=template)
    builder.info.set_splits(tfds.core.SplitDict([info]))
    os.makedirs(builder.data_dir)
    builder.info.write_to_directory(builder.data_dir)


def encoded_examples(self, split, decoders=None, read_config=None, **kwargs):
    """TFDS's random generator fills the parts of a sequence with different lengths: painted examples instead."""
    import tensorflow as tf

    features = decoders.extract_features(self.info.features)

    def generate():
        for number in range(6):
            image = np.asarray(paint(number))
            bbox = tfds.features.BBox(ymin=0.25, xmin=0.0, ymax=0.75, xmax=0.5)
            values = {"bbox": bbox, "label": number, "is_crowd": number == 0}
            objects = [{key: value for key, value in values.items() if key in features["objects"].feature}]
            yield features.encode_example({"image": image, "objects": objects})

    specs = features.get_serialized_info()
    types, shapes = (tf.nest.map_structure(lambda t, of=of: getattr(t, of), specs) for of in ("tf_dtype", "shape"))
    return tf.data.Dataset.from_generator(generate, output_types=types, output_shapes=shapes).map(
        lambda one: features.decode_example(one, decoders=decoders.decoders)
    )


@pytest.mark.parametrize(
    ("name", "split", "fake", "num_objects", "kind"),
    [
        ("imagenet2012", "train", None, 0, b"\xff\xd8\xff"),
        ("coco/2017", "train", encoded_examples, 1, b"\xff\xd8\xff"),
        ("voc/2007", "validation", encoded_examples, 1, b"\x89PN"),
    ],
)
def test_command_prepares_mocked_data_sets_of_the_catalogue(tmp_path, name, split, fake, num_objects, kind):
    mocked_info(name, tmp_path / "tfds", split, 6)
    for cached in (tfds_photos._builder, tfds_photos._layout):
        cached.cache_clear()
    out = tmp_path / "out"
    with tfds.testing.mock_data(num_examples=6, data_dir=str(tmp_path / "tfds"), as_dataset_fn=fake):
        flags = ["--source=tfds", f"--dataset={name}", f"--split={split}", f"--out={out}", "--num_workers=1"]
        assert exit_code(*flags, "--min_side=8", "--search_max_side=64") == 0
    assert exit_code(f"--check={out}", "--num_workers=1") == 0
    dataset = records.open_dataset(out)
    parsed = [records.parse(one) for shard in dataset.shards for one in records.read_shard(shard)]
    assert [len(one["objects"]) for one in parsed] == [num_objects] * 6
    assert all(one["encoded"].numpy()[:3] == kind for one in parsed)  # as TFDS stores it
