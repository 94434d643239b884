"""Photos as they are found and as they are stored."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data_prep.painted import paint
from univip_jax.data import records
from univip_jax.data.photos import decode as photos


def save(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def kind_of(data):
    return Image.open(io.BytesIO(data)).format


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_jpeg_and_png_are_stored_byte_by_byte(kind, mode):
    found = save(paint(0).convert(mode), kind)
    stored = photos.read_photo(found)
    assert stored.encoded == found
    np.testing.assert_array_equal(stored.pixels, np.asarray(Image.open(io.BytesIO(found)).convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "1"])
def test_other_png_are_stored_as_rgb_png_with_the_same_colours(mode):
    image = paint(1).convert(mode)
    stored = photos.read_photo(save(image, "PNG"))
    assert kind_of(stored.encoded) == "PNG"
    np.testing.assert_array_equal(stored.pixels, np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(records.decode_image(stored.encoded), stored.pixels)


def test_16_bit_grey_keeps_its_brightness():
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    stored = photos.read_photo(save(Image.fromarray(values), "PNG"))
    np.testing.assert_allclose(stored.pixels[..., 0], values / 257, atol=1)


@pytest.mark.parametrize(
    ("mode", "kind"), [("CMYK", "JPEG"), ("RGB", "WEBP"), ("RGB", "BMP"), ("RGB", "TIFF"), ("P", "GIF")]
)
def test_other_formats_are_stored_as_jpeg_close_to_the_photo(mode, kind):
    image = paint(2).convert(mode, dither=Image.Dither.NONE)
    stored = photos.read_photo(save(image, kind))
    assert kind_of(stored.encoded) == "JPEG"
    assert np.abs(stored.pixels.astype(int) - np.asarray(image.convert("RGB"))).mean() < 8
    assert records.decode_image(stored.encoded).shape == (96, 120, 3)


def test_exif_rotation_is_applied_to_the_stored_photo():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    stored = photos.read_photo(save(paint(3), "JPEG", exif=exif, quality=95))
    expected = np.rot90(np.asarray(paint(3)), k=-1)
    assert stored.pixels.shape == (120, 96, 3)
    assert np.abs(stored.pixels.astype(int) - expected).mean() < 6
    assert records.decode_image(stored.encoded).shape == (120, 96, 3)
    assert 0x0112 not in Image.open(io.BytesIO(stored.encoded)).getexif()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_turned_once(orientation):
    found = save(paint(3), "TIFF", tiffinfo={0x0112: orientation})
    like_it = save(paint(3), "PNG", exif=exif_of(orientation))
    expected = photos.read_photo(like_it)
    stored = photos.read_photo(found)
    assert stored[2:] == expected[2:] == (96, 120, orientation)
    assert np.abs(stored.pixels.astype(int) - expected.pixels).mean() < 6


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(("kind", "orientation"), [("JPEG", 1), ("JPEG", 6), ("PNG", 1)])
def test_max_side_stores_a_smaller_jpeg(kind, orientation):
    image = paint(3, 480, 384)
    stored = photos.read_photo(save(image, kind, exif=exif_of(orientation)), max_side=60)
    assert kind_of(stored.encoded) == "JPEG"
    assert stored.pixels.shape == ((60, 48, 3) if orientation == 6 else (48, 60, 3))
    assert stored[2:] == (384, 480, orientation)
    expected = np.asarray(image.resize((60, 48), Image.Resampling.LANCZOS))
    if orientation == 6:
        expected = np.rot90(expected, k=-1)
    assert np.abs(stored.pixels.astype(int) - expected).mean() < 6


def test_photo_of_max_side_is_stored_as_found():
    found = save(paint(3), "JPEG")
    assert photos.read_photo(found, max_side=120).encoded == found


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (b"", "empty file"),
        (b"not a photo", "not an image"),
        (save(paint(4), "JPEG")[:1500], "damaged: "),
        (save(paint(4), "PNG")[:-3000], "damaged: "),
        (save(Image.fromarray(np.full([8, 8], np.nan, np.float32)), "TIFF"), "unknown pixels: 100% of its values are"),
    ],
)
def test_unusable_photos_are_rejected_with_the_same_reason_each_time(found, reason):
    reasons = set()
    for _ in range(2):
        with pytest.raises(photos.Rejected) as error:
            photos.read_photo(found)
        reasons.add(str(error.value))
    assert len(reasons) == 1 and "0x" not in str(reasons)
    assert reasons.pop().startswith(reason)


def test_photo_of_too_many_pixels_is_rejected_before_decoding(monkeypatch):
    found = save(paint(5, 1600, 1000), "JPEG")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(photos.Rejected, match="too large: 1600 x 1000 is over 1 megapixels"):
        photos.read_photo(found, max_megapixels=1)
