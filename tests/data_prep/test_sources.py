"""Which photos are found, and which annotations belong to them."""

import json

import numpy as np
import pytest

from data_prep import sources
from univip_jax.errors import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def ids(found):
    return [photo.image_id for photo in found]


def test_photos_are_found_in_all_folders_by_suffix_in_any_case_and_sorted(tmp_path):
    touch(tmp_path, "b.JPG", "a/z.png", "a/b/c.Jpeg", "notes.txt", ".hidden.jpg", ".cache/x.jpg", "a.webp")
    found = sources.find_photos(tmp_path)
    assert ids(found) == ["a.webp", "a/b/c.Jpeg", "a/z.png", "b.JPG"]
    assert [photo.num_bytes for photo in found] == [1, 1, 1, 1]


def test_links_to_folders_are_followed_and_circles_end(tmp_path):
    touch(tmp_path, "real/a.jpg")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "circle").symlink_to(tmp_path / "images")
    assert ids(sources.find_photos(tmp_path / "images")) == ["link/a.jpg"]


def test_a_broken_link_is_kept_to_be_rejected_later(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    assert sources.find_photos(tmp_path)[1].num_bytes == -1


@pytest.mark.parametrize(("name", "words"), [("nowhere", "no such folder"), ("", "has no photos")])
def test_a_folder_without_photos_is_named(tmp_path, name, words):
    touch(tmp_path, "notes.txt")
    with pytest.raises(UserError, match=words) as error:
        sources.find_photos(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def coco(path, file_names, **changes):
    contents = {
        "images": [{"id": i, "file_name": name, "height": 50, "width": 100} for i, name in enumerate(file_names)],
        "annotations": [
            {"image_id": 0, "category_id": 7, "bbox": [10, 20, 30, 10], "iscrowd": 0},
            {"image_id": 0, "category_id": 8, "bbox": [0, 0, 90, 40], "iscrowd": 1},
            {"image_id": 0, "category_id": 9, "bbox": [1.5, 2, 3, 4]},
        ],
    } | changes
    path.write_text(json.dumps(contents))
    return path


def test_annotations_are_matched_by_path_then_by_base_name_and_crowds_are_dropped(tmp_path):
    found = sources.find_photos(touch(tmp_path, "x/a.jpg", "y/a.jpg", "z/b.jpg", "c.jpg"))
    by_id = sources.read_annotations(coco(tmp_path / "c.json", ["x/a.jpg", "b.jpg", "c.jpg"]), found)
    assert sorted(by_id) == ["c.jpg", "x/a.jpg", "z/b.jpg"]  # y/a.jpg shares its base name with another photo
    np.testing.assert_array_equal(by_id["x/a.jpg"].boxes_xywh_px, [[10, 20, 30, 10], [1.5, 2, 3, 4]])
    assert by_id["x/a.jpg"].labels.tolist() == [7, 9]
    assert by_id["c.jpg"].boxes_xywh_px.shape == (0, 4)
    assert (by_id["c.jpg"].height, by_id["c.jpg"].width) == (50, 100)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.write_text("{"), "cannot be read"),
        (lambda path: path.write_text("[]"), "is not COCO instances json"),
        (lambda path: path.write_text('{"images": []}'), "is not COCO instances json"),
        (lambda path: coco(path, ["a.jpg"], annotations=[{"image_id": 0, "category_id": 1, "bbox": [1, 2]}]), "is not"),
        (lambda path: coco(path, ["other.jpg"]), "names none of the 1 photos"),
    ],
)
def test_wrong_annotations_are_one_line_that_names_the_file(tmp_path, write, words):
    found = sources.find_photos(touch(tmp_path, "a.jpg"))
    write(tmp_path / "c.json")
    with pytest.raises(UserError, match=words) as error:
        sources.read_annotations(tmp_path / "c.json", found)
    assert f"--annotations={tmp_path / 'c.json'}" in str(error.value) and "\n" not in str(error.value)
