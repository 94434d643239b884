"""Composed scenes match their annotations, and the packed file preserves them."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.scenes.compose import SceneSpec, list_classes, list_pair, open_square, place_objects, write_scenes
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
    write_scenes(list_classes(classes), root, 12, 0, SceneSpec())
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


def test_write_scenes_depends_on_photos_and_seed_only(classes, scenes, tmp_path):
    for seed, same in ((0, True), (1, False)):
        write_scenes(list_classes(classes), tmp_path / str(seed), 2, seed, SceneSpec())
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
        write_scenes(list_classes(classes), scenes, 2, 0, SceneSpec())
    assert len(list((scenes / "photos").iterdir())) == 12
