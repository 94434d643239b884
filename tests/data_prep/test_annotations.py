"""COCO's json by photo, and boxes and polygons in the frame of a photo that EXIF turns."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from data_prep import annotations
from data_prep.annotations import Annotations
from tests.data_prep.painted import paint
from univip_jax.common.errors import UserError
from univip_jax.data.photos import decode as photos
from univip_jax.data.records import Polygons

IDS = ["c.jpg", "x/a.jpg", "y/a.jpg", "z/b.jpg"]


def coco(path, file_names, **changes):
    contents = {
        "images": [{"id": i, "file_name": name, "height": 50, "width": 100} for i, name in enumerate(file_names)],
        "annotations": [
            {
                "image_id": 0, "category_id": 7, "bbox": [10, 20, 30, 10], "iscrowd": 0,
                "segmentation": [[10, 20, 40, 20, 40, 30], [10, 25, 20, 25, 20, 30, 10, 30]],
            },
            {
                "image_id": 0, "category_id": 8, "bbox": [0, 0, 90, 40], "iscrowd": 1,
                "segmentation": {"counts": [0, 5000], "size": [50, 100]},
            },
            {"image_id": 0, "category_id": 9, "bbox": [1.5, 2, 3, 4], "segmentation": [[1.5, 2, 4.5, 2, 4.5, 6]]},
            {"image_id": 0, "category_id": 9, "bbox": [float("nan"), 2, 3, 4]},
        ],
    } | changes  # fmt: skip
    path.write_text(json.dumps(contents))
    return path


def read(path, image_ids=IDS):
    return annotations.find_annotations(annotations.read_json(path), path, image_ids)


def test_annotations_are_matched_by_path_then_by_base_name(tmp_path):
    by_id = read(coco(tmp_path / "c.json", ["x/a.jpg", "b.jpg", "c.jpg"]))
    assert sorted(by_id) == ["c.jpg", "x/a.jpg", "z/b.jpg"]  # y/a.jpg shares its base name with another photo
    found = by_id["x/a.jpg"]
    np.testing.assert_array_equal(found.boxes_xywh_px, [[10, 20, 30, 10], [0, 0, 90, 40], [1.5, 2, 3, 4]])
    assert (found.labels.tolist(), found.is_crowd.tolist()) == ([7, 8, 9], [False, True, False])
    assert found.polygons_xy_px.num_points.tolist() == [3, 4, 3]
    assert found.polygons_xy_px.objects.tolist() == [0, 0, 2]
    np.testing.assert_array_equal(found.polygons_xy_px.points[[0, 3, 9]], [[10, 20], [10, 25], [4.5, 6]])
    assert by_id["c.jpg"].boxes_xywh_px.shape == (0, 4)
    assert (by_id["c.jpg"].height, by_id["c.jpg"].width) == (50, 100)


def test_json_without_annotations_gives_photos_no_objects(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "c.jpg"}]}))
    assert read(tmp_path / "c.json")["c.jpg"].boxes_xywh_px.shape == (0, 4)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.write_text("{"), "cannot be read"),
        (lambda path: path.write_text("[]"), "cannot be read as COCO instances json"),
        (lambda path: path.write_text('{"images": []}'), "names none of the 4 photos"),
        (lambda path: coco(path, ["c.jpg"], annotations=[{"image_id": 0, "category_id": 1, "bbox": [1]}]), "as COCO"),
        (lambda path: coco(path, ["other.jpg"]), "names none of the 4 photos"),
    ],
)
def test_wrong_annotations_are_one_line_that_names_the_file(tmp_path, write, words):
    write(tmp_path / "c.json")
    with pytest.raises(UserError, match=words) as error:
        read(tmp_path / "c.json")
    assert f"--annotations={tmp_path / 'c.json'}" in str(error.value) and "\n" not in str(error.value)


def turned_photo(orientation, width=120, height=96):
    """A photo with a white rectangle at x 20..70, y 10..40 of its pixels as encoded, turned by its EXIF tag."""
    pixels = np.zeros([height, width, 3], np.uint8)
    pixels[10:40, 20:70] = 255
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    return photos.read_photo(buffer.getvalue())


def white(stored):
    """The white rectangle in the stored photo, yxyx in [0, 1], by looking at its pixels."""
    rows, columns = np.nonzero(stored.pixels[..., 0] > 127)
    height, width = stored.pixels.shape[:2]
    return [rows.min() / height, columns.min() / width, (rows.max() + 1) / height, (columns.max() + 1) / width]


def around(box, height=96, width=120):
    x, y, box_width, box_height = box
    corners = np.float32([[x, y], [x + box_width, y], [x + box_width, y + box_height]])
    return Annotations(
        np.array([[500.0, 10, 5, 5], box]), np.array([3, 4]), height, width, np.array([True, False]),
        Polygons(np.concatenate([np.float32([[0, 0], [1, 1]]), corners]), np.array([2, 3]), np.array([0, 1])),
    )  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
def test_objects_annotated_on_the_encoded_pixels_are_turned(orientation):
    stored = turned_photo(orientation)
    objects = annotations.in_photo(around([20, 10, 50, 30]), stored)
    np.testing.assert_allclose(objects.boxes, [white(stored)], atol=1e-6)  # the other box lies outside
    assert (objects.labels.tolist(), objects.is_crowd.tolist()) == ([4], [False])
    assert (objects.polygons.num_points.tolist(), objects.polygons.objects.tolist()) == ([3], [0])
    y0, x0, y1, x1 = white(stored)
    np.testing.assert_allclose(objects.polygons.points.min(0), [y0, x0], atol=1e-6)
    np.testing.assert_allclose(objects.polygons.points.max(0), [y1, x1], atol=1e-6)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_objects_annotated_on_the_upright_photo_stay(orientation):
    stored = turned_photo(orientation)
    y0, x0, y1, x1 = np.array(white(stored)) * [120, 96, 120, 96]
    objects = annotations.in_photo(around([x0, y0, x1 - x0, y1 - y0], height=120, width=96), stored)
    np.testing.assert_allclose(objects.boxes, [white(stored)], atol=1e-6)


def test_ambiguous_size_means_the_encoded_pixels():
    stored = turned_photo(6, width=100, height=100)
    objects = annotations.in_photo(around([20, 10, 50, 30], height=100, width=100), stored)
    np.testing.assert_allclose(objects.boxes, [white(stored)], atol=1e-6)
    objects = annotations.in_photo(around([20, 10, 50, 30], height=0, width=0), turned_photo(6))
    np.testing.assert_allclose(objects.boxes, [white(turned_photo(6))], atol=1e-6)


@pytest.mark.parametrize("size", [(120, 96), (60, 150)])
def test_annotations_of_another_shape_are_rejected(size):
    with pytest.raises(photos.Rejected, match=f"another size: {size[1]} x {size[0]}, photo 120 x 96"):
        annotations.in_photo(around([20, 10, 50, 30], *size), turned_photo(1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turn_points_agrees_with_pillow(orientation):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros([4, 6], np.uint8)
    pixels[1, 4] = 255
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(buffer)))
    expected = (np.argwhere(shown)[0] + 0.5) / shown.shape
    np.testing.assert_allclose(annotations.turn_points(np.array([1.5 / 4, 4.5 / 6]), orientation), expected)


def test_boxes_of_a_shrunk_photo_keep_their_places():
    buffer = io.BytesIO()
    paint(0, 240, 192).save(buffer, "PNG")
    stored = photos.read_photo(buffer.getvalue(), max_side=100)
    assert stored.pixels.shape == (80, 100, 3)
    objects = annotations.in_photo(around([24, 48, 120, 96], 0, 0), stored)
    np.testing.assert_allclose(objects.boxes, [[0.25, 0.1, 0.75, 0.6]], rtol=1e-6)
