"""Each row of the table of formats in docs/data.md: the photo made by Pillow or OpenCV, its pixels by NumPy."""

import io
import re
import struct
from pathlib import Path

import cv2
import numpy as np
import pillow_heif  # noqa: F401 (Pillow writes HEIC once the decoder is imported)
import pytest
from PIL import Image, PngImagePlugin

from tests.data_prep.painted import paint
from univip_jax.data import records
from univip_jax.data.photos import decode as photos
from univip_jax.data.photos import pixels

PAINTED = paint(0, 160, 128)
RGB = np.asarray(PAINTED) * 2  # paint keeps to the darker half
GREY = np.asarray(Image.fromarray(RGB).convert("L"))
AS_FOUND, PNG, JPEG = "the file's bytes", "PNG", "JPEG"


def save(image, kind, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def by_opencv(suffix, rgb):
    return cv2.imencode(suffix, np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes()


def tiff(values, orientation=1, photometric=None, no_data=None, separate=False):
    """An uncompressed TIFF of one strip, written by hand: Pillow writes neither depth in colour nor tags at will."""
    channels = values.shape[2] if values.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    colours = photometric if photometric is not None else (2 if channels > 1 else 1)
    data, bits = values.tobytes(), values.dtype.itemsize * 8
    starts = [8]
    if separate:
        data = np.moveaxis(values, 2, 0).tobytes()
        starts = [8 + len(data) // channels * plane for plane in range(channels)]
    tags = {256: ("I", values.shape[1:2]), 257: ("I", values.shape[:1]), 258: ("H", [bits] * channels)}
    tags |= {259: ("H", [1]), 262: ("H", [colours]), 273: ("I", starts), 274: ("H", [orientation])}
    tags |= {277: ("H", [channels]), 278: ("I", values.shape[:1]), 279: ("I", [len(data) // len(starts)] * len(starts))}
    tags |= {284: ("H", [1 + separate]), 339: ("H", [kind] * channels)}
    if no_data is not None:
        tags[42113] = ("s", [f"{no_data}\0".encode()])
    place = 8 + len(data)
    extra_place, entries, extra = place + 6 + 12 * len(tags), b"", b""
    for tag, (code, value) in tags.items():
        size = len(value[0]) if code == "s" else len(value)
        packed = struct.pack(f"<{size}{code}", *value)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", extra_place + len(extra)), extra + packed
        entries += struct.pack("<HHI", tag, {"s": 2, "H": 3, "I": 4}[code], size) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", place) + data + struct.pack("<H", len(tags)) + entries + bytes(4) + extra


def text(size, compressed):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * size, zip=compressed)
    return info


def ycck():
    """Adobe's: Y, Cb, Cr of C, M, Y as if they were R, G, B; Pillow writes the mark of CMYK, and this changes it."""
    cmyk = np.asarray(Image.fromarray(RGB).convert("CMYK"))
    ycc = np.asarray(Image.fromarray(np.ascontiguousarray(cmyk[..., :3])).convert("YCbCr"))
    found = save(Image.fromarray(np.dstack([255 - ycc, cmyk[..., 3]]), mode="CMYK"), "JPEG", quality=95)
    place = found.index(b"Adobe") + 11
    return found[:place] + b"\x02" + found[place + 1 :]


def of_palette(mode):
    return np.asarray(Image.fromarray(RGB).convert(mode, dither=Image.Dither.NONE).convert("RGB"))


def three(grey):
    return np.dstack([grey] * 3)


JPEG_FILE, GREY_FILE = save(RGB, "JPEG", quality=95), save(GREY, "JPEG", quality=95)
TURNED = np.ascontiguousarray(np.rot90(RGB))
OTHER = Image.fromarray(RGB[::-1])
DEEP = GREY.astype(np.uint16)
SEEN = np.where(GREY < 30, np.uint8(0), GREY)  # the rest has no data
LIGHT = np.repeat(np.arange(256, dtype=np.uint8)[None], 32, 0)  # of CIE L*, in 255ths
# sRGB of CIE's grey, by the formulas of both standards.
_L = LIGHT / 2.55
_Y = np.where(_L > 8, ((_L + 16) / 116) ** 3, _L / 903.3)
LAB_GREY = np.round(255 * np.where(_Y > 0.0031308, 1.055 * _Y ** (1 / 2.4) - 0.055, 12.92 * _Y)).astype(np.uint8)
LAB = Image.frombytes("LAB", (256, 32), np.dstack([LIGHT, LIGHT * 0, LIGHT * 0]).tobytes())
STRAY = bytes(range(1, 201))

# The row of the table: (how it is stored, [(the file, its pixels)]).
CASES = {
    "JPEG, RGB or grey": (
        AS_FOUND,
        [(JPEG_FILE, RGB), (GREY_FILE, three(GREY)), (save(RGB, "JPEG", quality=95, progressive=True), RGB)],
    ),
    "JPEG of several pictures (MPO)": (
        AS_FOUND,
        [(save(RGB, "MPO", quality=95, save_all=True, append_images=[OTHER]), RGB)],
    ),
    "JPEG, CMYK or YCCK": (
        JPEG,
        [(save(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95), RGB), (ycck(), RGB)],
    ),
    "JPEG without its end marker, or of which libjpeg complains": (
        JPEG,
        [
            (JPEG_FILE[:-2], RGB),
            (JPEG_FILE[:-1], RGB),
            (GREY_FILE[:-2], three(GREY)),
            (save(RGB, "JPEG", quality=95, progressive=True)[:-2], RGB),
            (JPEG_FILE[:-2] + STRAY + JPEG_FILE[-2:], RGB),
        ],
    ),
    "PNG, RGB or grey": (AS_FOUND, [(save(RGB, "PNG"), RGB), (save(GREY, "PNG"), three(GREY))]),
    "PNG, RGB of 16 bit": (AS_FOUND, [(by_opencv(".png", RGB.astype(np.uint16) * 257), RGB)]),
    "PNG, grey of 16 bit, or of 8 to 14 bit in 16": (
        PNG,
        [
            (save(DEEP * 257, "PNG"), three(GREY)),
            (save(DEEP, "PNG"), three(GREY)),
            (save(DEEP * 16, "PNG"), three(GREY)),
            (by_opencv(".png", RGB.astype(np.uint16) * 16), RGB),
            (by_opencv(".png", RGB.astype(np.uint16)), RGB),
        ],
    ),
    "PNG with palette, 1 bit, alpha or transparency": (
        PNG,
        [
            (save(Image.fromarray(RGB).convert("P", dither=Image.Dither.NONE), "PNG"), of_palette("P")),
            (
                save(Image.fromarray(RGB).convert("P", dither=Image.Dither.NONE), "PNG", transparency=bytes(99)),
                of_palette("P"),
            ),
            (save(np.dstack([RGB, GREY]), "PNG"), RGB),
            (save(np.dstack([GREY, GREY]), "PNG"), three(GREY)),
            (save(GREY > 99, "PNG"), three((GREY > 99) * np.uint8(255))),
            (save(GREY > 99, "PNG", transparency=0), three((GREY > 99) * np.uint8(255))),
        ],
    ),
    "PNG with text or a colour profile, damaged or of many MB": (
        "PNG without them",
        [
            (save(RGB, "PNG", pnginfo=text(2_000_000, True)), RGB),
            (save(RGB, "PNG", icc_profile=bytes(2_000_000)), RGB),
            (save(RGB, "PNG", pnginfo=text(50, False)).replace(b"xxx", b"xyx", 1), RGB),
        ],
    ),
    "PNG without its end": (PNG, [(save(RGB, "PNG")[:-12], RGB)]),
    "WebP, GIF, AVIF, HEIC; the first picture": (
        JPEG,
        [
            (save(RGB, "WEBP", quality=95, save_all=True, append_images=[OTHER]), RGB),
            (save(Image.fromarray(RGB).convert("P", dither=Image.Dither.NONE), "GIF"), of_palette("P")),
            (save(RGB, "AVIF", quality=95), RGB),
            (save(RGB, "HEIF", quality=95), RGB),
        ],
    ),
    "BMP, JPEG 2000, PPM, PGM": (
        JPEG,
        [
            (save(RGB, "BMP"), RGB),
            (save(RGB, "JPEG2000"), RGB),
            (save(RGB, "PPM"), RGB),
            (save(DEEP * 16, "PPM"), three(GREY)),
        ],
    ),
    "TIFF of 8 bit; RGB, grey, CMYK or LAB": (
        JPEG,
        [
            (save(RGB, "TIFF"), RGB),
            (save(GREY, "TIFF", compression="tiff_lzw"), three(GREY)),
            (save(Image.fromarray(RGB).convert("CMYK"), "TIFF"), RGB),
            (save(LAB, "TIFF"), three(LAB_GREY)),
        ],
    ),
    "TIFF of 16 or 32 bit, or floats; RGB or grey": (
        JPEG,
        [
            (tiff(DEEP * 257), three(GREY)),
            (tiff(DEEP * 16), three(GREY)),
            (tiff((255 - DEEP) * 257, photometric=0), three(GREY)),
            (tiff(RGB.astype(np.uint16) * 257), RGB),
            (tiff(RGB.astype(np.uint16) * 16), RGB),
            (tiff(GREY.astype(np.int32) * 257), three(GREY)),
            (tiff(GREY.astype(np.int16) - 128), three(GREY - GREY.min())),
            (tiff(GREY.astype(np.float32) / 255), three(GREY)),
            (tiff(RGB.astype(np.float32) / 255), RGB),
            (tiff(RGB.astype(np.float64)), RGB),
            (tiff(RGB.astype(np.uint32) * 16), RGB),
            (tiff(GREY.astype(np.uint32) * (2**32 // 256)), (three(GREY) * (255 / GREY.max())).astype(np.uint8)),
            (tiff(RGB, separate=True), RGB),
            (tiff(np.where(DEEP < 30, 0, DEEP).astype(np.int16) - 9999 * (DEEP < 30), no_data=-9999), three(SEEN)),
            (tiff(np.where(DEEP < 30, -3.4e38, DEEP / 255).astype(np.float32)), three(SEEN)),
        ],
    ),
    "turned by its EXIF tag": (
        JPEG,
        [
            (save(TURNED, "JPEG", exif=exif(6), quality=95), RGB),
            (save(TURNED, "WEBP", exif=exif(6), quality=95), RGB),
            (save(TURNED, "HEIF", exif=exif(6), quality=95), RGB),
            (save(TURNED, "AVIF", exif=exif(6), quality=95), RGB),
            (tiff(TURNED, 6), RGB),
            (tiff(TURNED.astype(np.uint16) * 16, 6), RGB),
        ],
    ),
    "PNG turned by its EXIF tag": (
        PNG,
        [
            (save(TURNED, "PNG", exif=exif(6)), RGB),
            (save(np.ascontiguousarray(np.rot90(DEEP)) * 16, "PNG", exif=exif(6)), three(GREY)),
        ],
    ),
}


def stored_as(stored, found):
    return AS_FOUND if stored.encoded == found else Image.open(io.BytesIO(stored.encoded)).format


@pytest.mark.parametrize(("row", "index"), [(row, i) for row, (_, files) in CASES.items() for i in range(len(files))])
def test_each_format_is_stored_with_its_pixels(row, index):
    how, files = CASES[row]
    found, expected = files[index]
    stored = photos.read_photo(found)
    assert stored_as(stored, found) == how.split()[0] or how == stored_as(stored, found)
    assert stored.pixels.shape == expected.shape
    exact = how.startswith("PNG") and "16" not in row and "PNG turned" not in row
    off = np.abs(stored.pixels.astype(int) - expected)
    assert off.max() == 0 if exact else off.mean() < 6
    # Evaluations read the file their own way. TensorFlow's JPEG decoder rounds otherwise than Pillow's.
    for encoded in (stored.encoded, photos.as_stored(found)):
        off = np.abs(records.decode_image(encoded).numpy().astype(int) - stored.pixels)
        assert off.max() == 0 if how.startswith("PNG") else off.mean() < 2


def test_the_table_of_formats_is_what_the_tests_run():
    page = (Path(__file__).parents[3] / "docs/data.md").read_text()
    table = page.split("## What is stored")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE)[2:])
    shrunk = rows.pop("longer side above `--max_side=N` px")
    assert shrunk.startswith("JPEG")
    assert rows == {row: how if how != JPEG else "JPEG of quality 95" for row, (how, _) in CASES.items()}


def values(largest, kind=np.uint16):
    return np.array([[0, 1, largest // 2 if largest > 1 else 0.5, largest]]).astype(kind)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (values(65535), [0, 0, 127, 255]),  # v // 257, as records of earlier versions have it
        (values(40000), [0, 0, 77, 155]),
        (values(4095), [0, 0, 127, 255]),
        (values(1023), [0, 0, 127, 255]),
        (values(255), [0, 1, 127, 255]),
        (values(7), [0, 1, 3, 7]),
        (values(1, np.float32), [0, 255, 128, 255]),
        (values(255, np.float64), [0, 1, 127, 255]),
        (np.array([[0, 1e-4, 2e-4, 4e-4]]), [0, 64, 128, 255]),  # else all would be black
        (np.arange(256)[None] / np.float32(255), list(range(256))),
        (np.array([[0, 2**32 - 1, 2**31, 0]], np.uint32), [0, 255, 127, 0]),
        (values(510_000, np.int64), [0, 0, 127, 255]),
        (np.array([[-5, 250, 100, 0]]), [0, 255, 105, 5]),
        (np.zeros([1, 4]), [0, 0, 0, 0]),
        (np.full([1, 4], -3.0), [0, 0, 0, 0]),
    ],
)
def test_deep_pixels_become_8_bit_by_one_rule(found, expected):
    assert pixels.to_8_bit(found).tolist() == [expected]


UNIT = np.linspace(0, 1, 10_000).reshape(100, 100)


def spoiled(values, value, number=1):
    values = values.copy()
    values.flat[-number:] = value
    return values


@pytest.mark.parametrize(
    ("found", "black", "white"),
    [
        (UNIT * 1.0001, 0, 1),
        (UNIT * 1.02, 0, 1),
        (UNIT * 1.08 - 0.04, 0, 1),
        (spoiled(UNIT, 1.3), 0, 1),
        (spoiled(UNIT, 1e6), 0, 1),
        (spoiled(UNIT, -9999), 0, 1),
        (spoiled(UNIT, -9998), 0, 1),
        (spoiled(UNIT, -3.4e38, 3000), 0, 1),
        (spoiled(UNIT, np.inf, 3000), 0, 1),
        (spoiled(UNIT, np.nan, 3000), 0, 1),
        (UNIT / 5, 0, 1),
        (UNIT * 2 - 1, -1, 1),
        (UNIT * 4.7 - 2.1, -2.1, 2.6),
        (UNIT * 8, 0, 8),
        (spoiled(UNIT * 800.5, -9999, 3000), 0, 800.5 * 0.7),
        (np.round(UNIT * 4000), 0, 4095),
    ],
)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_keep_their_range_whatever_lies_far_out(found, black, white, kind):
    expected = np.clip((found - black) / (white - black), 0, 1) * 255
    expected[~(np.abs(found) < 9000)] = 0
    expected[found == 1e6] = 255
    assert np.abs(pixels.to_8_bit(found.astype(kind)) - expected).max() < 2


def test_photo_of_which_most_is_no_data_is_refused():
    for value in (np.nan, np.inf, -3.4e38, -9999):
        with pytest.raises(pixels.UnknownPixels, match="60% of its values are infinite, no numbers or no data"):
            pixels.to_8_bit(spoiled(UNIT, value, 6000))
    with pytest.raises(pixels.UnknownPixels, match="60% of its values"):
        pixels.to_8_bit(spoiled(UNIT * 99, -7, 6000).astype(np.int16), no_data=-7)


@pytest.mark.parametrize("kind", [np.uint16, np.float32, np.uint32])
def test_separate_planes_of_deep_pixels_are_refused_and_never_noise(kind):
    with pytest.raises(photos.Rejected, match=r"^unknown pixels: separate planes of (16|32) bits"):
        photos.read_photo(tiff(RGB.astype(kind), separate=True))


def test_damaged_tiff_says_so_in_one_line(capfd):
    for found in (tiff(RGB.astype(np.float32))[:-40], save(RGB, "TIFF", compression="tiff_lzw")[:9000]):
        with pytest.raises(photos.Rejected, match=r"^(damaged|not an image)"):
            photos.read_photo(found)
    assert capfd.readouterr().err == ""
