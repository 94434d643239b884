"""Boxes and polygons in the frame of a photo that EXIF turns."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as rle

from data_prep import annotations
from data_prep.annotations import Annotations
from tests.data_prep.painted import paint
from univip_jax.data.photos import decode as photos
from univip_jax.data.records import Polygons


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


def only(box, height, width):
    return Annotations(np.array([box], np.float64), np.array([4]), height, width, np.array([False]))


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


def with_mask(pixels, found):
    """An annotation whose mask is where the pixels are white, and whose area is unknown."""
    mask = rle.encode(np.asfortranarray(pixels[..., 0] > 127).astype(np.uint8))
    return found._replace(json_id="7", areas=np.array([np.nan]), masks=(mask,))


def encoded_pixels():
    pixels = np.zeros([96, 120, 3], np.uint8)
    pixels[10:40, 20:70] = 255
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_follow_the_pixels(orientation):
    stored = turned_photo(orientation)
    height, width = stored.pixels.shape[:2]
    as_encoded = with_mask(encoded_pixels(), only([20, 10, 50, 30], 96, 120))
    y0, x0, y1, x1 = np.array(white(stored)) * [height, width, height, width]
    upright = with_mask(stored.pixels, only([x0, y0, x1 - x0, y1 - y0], height, width))
    for found in (as_encoded, upright._replace(upright=True)):
        objects = annotations.in_photo(found, stored)
        in_json = objects.in_json
        assert in_json[:3] == ("7", height, width) and in_json.areas.tolist() == [1500]
        mask = rle.decode({"size": [height, width], "counts": in_json.rle[0]})
        np.testing.assert_array_equal(mask, stored.pixels[..., 0] > 127)
        np.testing.assert_allclose(objects.boxes, [white(stored)], atol=1e-6)


def test_mask_is_in_the_frame_of_its_size_where_the_boxes_mean_the_other():
    stored = turned_photo(6)
    found = with_mask(encoded_pixels(), only([30, 80, 40, 30], 96, 120))  # the box leaves 96 x 120
    in_json = annotations.in_photo(found, stored).in_json
    assert (in_json.frame_height, in_json.frame_width) == (120, 96)
    mask = rle.decode({"size": [120, 96], "counts": in_json.rle[0]})
    np.testing.assert_array_equal(mask, stored.pixels[..., 0] > 127)


def test_frame_is_the_jsons_size_or_the_original_photos_and_not_that_of_the_shrunk_one():
    buffer = io.BytesIO()
    paint(0, 240, 192).save(buffer, "PNG")
    stored = photos.read_photo(buffer.getvalue(), max_side=100)
    for stated, frame in (((0, 0), (192, 240)), ((96, 120), (96, 120))):
        found = only([12, 24, 60, 48], *stated)._replace(json_id="7", areas=np.array([np.nan]), masks=(None,))
        in_json = annotations.in_photo(found, stored).in_json
        assert (in_json.frame_height, in_json.frame_width) == frame and in_json.areas.tolist() == [60 * 48]
        assert in_json.rle == (b"",)


def test_facts_of_objects_outside_the_photo_go_with_them():
    mask = rle.encode(np.ones([96, 120], np.uint8, order="F"))
    found = around([100, 80, 50, 30])._replace(json_id="7", areas=np.array([5.0, np.nan]), masks=(mask, None))
    # The outline is cut at the frame: a triangle of 20 x 16 px.
    covered = rle.frPyObjects([[100, 80, 120, 80, 120, 96]], 96, 120)
    in_json = annotations.in_photo(found, turned_photo(1)).in_json
    assert in_json.areas.tolist() == [rle.area(covered)[0]] and in_json.rle == (b"",)


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


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_that_leave_the_encoded_size_mean_the_upright_photo(orientation):
    # 120 x 96 as encoded, 96 x 120 as shown: the box ends at y = 110.
    box, upright = [30, 80, 40, 30], [[80 / 120, 30 / 96, 110 / 120, 70 / 96]]
    for size in ((96, 120), (0, 0)):
        objects = annotations.in_photo(only(box, *size), turned_photo(orientation))
        np.testing.assert_allclose(objects.boxes, upright, atol=1e-6)
    stated = annotations.in_photo(only([20, 10, 95, 30], 120, 96), turned_photo(orientation))
    encoded = annotations.in_photo(only([20, 10, 95, 30], 96, 120), turned_photo(orientation))
    np.testing.assert_array_equal(stated.boxes, encoded.boxes)  # and the other way round


def test_boxes_of_a_json_that_means_upright_photos_stay_where_they_fit_both_frames():
    fits_both, fits_encoded = [20, 10, 50, 30], [20, 10, 95, 30]
    objects = annotations.in_photo(only(fits_both, 96, 120)._replace(upright=True), turned_photo(6))
    np.testing.assert_allclose(objects.boxes, [[10 / 120, 20 / 96, 40 / 120, 70 / 96]], atol=1e-6)
    for orientation in (2, 3, 4):  # such a tool draws on the upright photo, whatever turns it
        drawn = annotations.in_photo(only(fits_both, 96, 120)._replace(upright=True), turned_photo(orientation))
        np.testing.assert_allclose(drawn.boxes, [[10 / 96, 20 / 120, 40 / 96, 70 / 120]], atol=1e-6)
    for orientation in (1, 6):
        given = only(fits_encoded if orientation == 6 else fits_both, 96, 120)
        marked = annotations.in_photo(given._replace(upright=True), turned_photo(orientation))
        np.testing.assert_array_equal(marked.boxes, annotations.in_photo(given, turned_photo(orientation)).boxes)


@pytest.mark.parametrize(
    ("stated", "photo"), [((683, 1024), (4000, 6000)), ((563, 1000), (2250, 4000)), ((300, 6000), (26, 512))]
)
def test_a_copy_whose_sides_were_rounded_has_the_same_shape(stated, photo):
    stored = photos.StoredPhoto(b"", np.zeros([*photo, 3], np.uint8), *photo)
    box = [stated[1] // 4, stated[0] // 4, stated[1] // 2, stated[0] // 2]
    objects = annotations.in_photo(around(box, *stated), stored)
    np.testing.assert_allclose(objects.boxes[-1], [0.25, 0.25, 0.75, 0.75], atol=0.01)


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
