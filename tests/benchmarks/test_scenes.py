"""Composed scenes match their annotations, and the packed file preserves them."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.scenes.compose import (
    SceneSpec,
    choose_objects,
    list_classes,
    list_pair,
    open_square,
    photo_objects,
    place_objects,
    write_scenes,
)
from benchmarks.scenes.digits import digit_objects, write_labelled
from benchmarks.scenes.packed import pack, unpack
from tests.small import prepare_photos
from univip_jax.common.errors import UserError

COLORS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """One class per colour, two photos each, neither of them square."""
    root = tmp_path_factory.mktemp("classes")
    for name, color in COLORS.items():
        (root / name).mkdir()
        for index, size in enumerate([(60, 40), (30, 80)]):
            Image.new("RGB", size, color).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def scenes(classes, tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(photo_objects(list_classes(classes)), root, 12, 0, SceneSpec())
    return root


def test_write_scenes_annotates_every_object(scenes):
    found = json.loads((scenes / "annotations.json").read_text())
    names = {category["id"]: category["name"] for category in found["categories"]}
    assert list(names.values()) == list(COLORS)
    by_image = {
        image["id"]: [a for a in found["annotations"] if a["image_id"] == image["id"]] for image in found["images"]
    }
    for image in found["images"]:
        pixels = np.asarray(Image.open(scenes / "photos" / image["file_name"])).astype(int)
        assert pixels.shape == (128, 128, 3)
        x, y, side, _ = by_image[image["id"]][-1]["bbox"]  # the one in front
        color = COLORS[names[by_image[image["id"]][-1]["category_id"]]]
        inner = pixels[y + 4 : y + side - 4, x + 4 : x + side - 4]
        assert np.abs(inner - color).max() < 30  # JPEG
    assert {len(boxes) for boxes in by_image.values()} <= {2, 3, 4}
    assert all(40 <= a["bbox"][2] <= 64 for a in found["annotations"])


def test_place_objects_limits_the_covered_share():
    spec = SceneSpec(max_covered=0.15)
    for seed in range(50):
        places = place_objects(np.random.default_rng(seed), spec)
        front = np.full((128, 128), -1)
        for number, (y, x, side) in enumerate(places):
            assert 0 <= y <= 128 - side and 0 <= x <= 128 - side
            front[y : y + side, x : x + side] = number
        for number, (_, _, side) in enumerate(places):
            assert (front == number).sum() >= 0.85 * side**2


@pytest.mark.parametrize(("affinity", "expected"), [(0.0, 1 / 3), (0.5, 0.25 + 0.75 / 3), (1.0, 1.0)])
def test_affinity_is_the_share_of_objects_of_the_scenes_class(affinity, expected):
    """Of pairs of objects of a scene, P^2 + (1 - P^2) / 3 share a class, where three classes are equally large."""
    labels, rng = np.arange(30) % 3, np.random.default_rng(0)
    pairs = labels[np.stack([choose_objects(rng, labels, 2, affinity) for _ in range(4000)])]
    error = np.sqrt(expected * (1 - expected) / 4000)
    assert np.mean(pairs[:, 0] == pairs[:, 1]) == pytest.approx(expected, abs=4 * error + 1e-9)


def test_digits_are_ink_where_the_annotations_say(tmp_path):
    spec = SceneSpec(side=64, object_side=(20, 32), max_covered=0.1, affinity=1.0, suffix=".png")
    found = json.loads(write_scenes(digit_objects(), tmp_path, 20, 0, spec).read_text())
    for image in found["images"]:
        pixels = np.asarray(Image.open(tmp_path / "photos" / image["file_name"])).astype(int)
        boxes = [a for a in found["annotations"] if a["image_id"] == image["id"]]
        assert len({a["category_id"] for a in boxes}) == 1
        outside = np.ones((64, 64), bool)
        for x, y, side, _ in (a["bbox"] for a in boxes):
            assert pixels[y : y + side, x : x + side].min() < 100
            outside[y : y + side, x : x + side] = False
        assert np.all(pixels[outside] == 235)


def test_singles_of_digits_have_the_sets_sizes(tmp_path):
    train, test = (list_classes(folder) for folder in write_labelled(tmp_path, 0))
    assert (len(train), len(test)) == (2594, 4000)
    expected = np.bincount(load_digits().target[-500:])
    assert np.bincount([label for _, label in test]).tolist() == (8 * expected).tolist()
    assert open_square(test[0][0], 32).shape == (32, 32, 3)


def test_write_scenes_depends_on_photos_and_seed_only(classes, scenes, tmp_path):
    for seed, same in ((0, True), (1, False)):
        write_scenes(photo_objects(list_classes(classes)), tmp_path / str(seed), 2, seed, SceneSpec())
        again = (tmp_path / str(seed) / "photos" / "000001.jpg").read_bytes()
        assert (again == (scenes / "photos" / "000001.jpg").read_bytes()) == same


def test_open_square_is_the_middle_of_a_photo(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert np.all(open_square(tmp_path / "wide.png", 20) == 200)


def test_unpack_returns_the_prepared_scenes_and_the_labelled_photos(classes, scenes, tmp_path):
    prepared = prepare_photos(scenes / "photos", tmp_path / "data")
    pack(prepared, classes, classes, 16, tmp_path / "scenes.npz")
    packed = unpack(tmp_path / "scenes.npz")
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert packed.fingerprint == manifest["fingerprint"]
    # Shards hold photos in their order, so every photo is there once.
    expected = [np.asarray(Image.open(path)) for path in sorted((scenes / "photos").iterdir())]
    rows = sorted(map(bytes, packed.scenes.photos))
    assert rows == sorted(map(bytes, expected))
    counts = (packed.scenes.proposals[..., 2] > packed.scenes.proposals[..., 0]).sum(1)
    assert counts.mean() == pytest.approx(manifest["proposals"]["mean"], abs=1e-3)  # written with 3 places
    assert packed.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for photo, color in zip(packed.train.photos[::2], COLORS.values(), strict=True):
        assert photo.shape == (16, 16, 3) and np.abs(photo.astype(int) - color).max() < 30


def test_mistakes_are_one_line(tmp_path, classes):
    with pytest.raises(UserError, match="has no photos in class folders"):
        list_classes(tmp_path)
    for content in (b"no archive", b"PK\x03\x04 cut short"):
        (tmp_path / "other.npz").write_bytes(content)
        with pytest.raises(UserError, match="is not a packed data set"):
            unpack(tmp_path / "other.npz")
    (tmp_path / "classes" / "red").mkdir(parents=True)
    damaged = tmp_path / "classes" / "red" / "damaged.png"
    damaged.write_bytes((classes / "red" / "0.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"different classes: \['blue', 'green'\]"):
        list_pair(classes, tmp_path / "classes")
    with pytest.raises(UserError, match=r"damaged\.png cannot be read"):
        open_square(damaged, 8)


def test_write_scenes_refuses_a_folder_with_more_scenes(classes, scenes):
    with pytest.raises(UserError, match=r"has 12 scenes, more than --count=2"):
        write_scenes(photo_objects(list_classes(classes)), scenes, 2, 0, SceneSpec())
    assert len(list((scenes / "photos").iterdir())) == 12
