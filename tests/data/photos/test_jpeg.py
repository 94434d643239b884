"""JPEG files that are not whole: what is missing by hand, what is written to the terminal, and what is counted."""

import io
import os
import re

import numpy as np
import pytest
from PIL import Image

from tests.data.photos.test_formats import exif, save
from tests.data_prep.painted import paint
from univip_jax.data import records
from univip_jax.data.photos import decode as photos
from univip_jax.data.photos import jpeg

FOUND = save(paint(1, 640, 480), "JPEG", quality=90)
PROGRESSIVE = save(paint(1, 640, 480), "JPEG", quality=90, progressive=True)
END = b"\xff\xd9"


def load(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("rows", [1, 8, 29])
@pytest.mark.parametrize("end", [b"", END, bytes(4000)])
def test_missing_share_is_that_of_the_rows_behind_a_restart_marker(rows, end):
    """A marker follows each 16 of 480 rows: cut at the one before the last `rows` of 30."""
    found = save(paint(1, 640, 480), "JPEG", quality=90, restart_marker_rows=1)
    markers = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", found)]
    assert len(markers) == 29
    missing = jpeg.missing_share(found[: markers[29 - rows]] + end, load)
    assert rows / 30 - 0.02 < missing <= rows / 30 + 0.005  # smoothed colours reach one row up


def test_missing_share_of_whole_photos_is_zero():
    for found in (FOUND, FOUND[:-2], FOUND + bytes(100), FOUND[:-2] + bytes(range(1, 100)) + END, PROGRESSIVE[:-2]):
        assert jpeg.missing_share(found, load) == 0


def test_progressive_photo_without_a_scan_has_no_pixel_in_full():
    scans = [match.start() for match in re.finditer(rb"\xff\xda", PROGRESSIVE)]
    assert len(scans) > 5
    assert [jpeg.missing_share(PROGRESSIVE[:scan] + END, load) for scan in scans[1:]] == [1.0] * (len(scans) - 1)


@pytest.mark.parametrize("cut", [len(FOUND) // 2, len(FOUND) * 9 // 10])
@pytest.mark.parametrize("end", [b"", END, bytes(9000)])
@pytest.mark.parametrize("turn", [1, 6])
def test_photo_cut_short_is_rejected_with_the_missing_share(cut, end, turn):
    found = FOUND if turn == 1 else save(paint(1, 640, 480), "JPEG", quality=90, exif=exif(6))
    with pytest.raises(photos.Rejected, match=r"^damaged: cut short, \d+\.\d% of its pixels are missing$"):
        photos.read_photo(found[:cut] + end)


CMYK = save(paint(1, 640, 480).convert("CMYK"), "JPEG", quality=90)
CUT_ON_OTHER_PATHS = {
    "shrunk": (FOUND, 200),
    "shrunk much": (FOUND, 40),
    "shrunk progressive": (PROGRESSIVE, 200),
    "shrunk grey": (save(paint(1, 640, 480).convert("L"), "JPEG", quality=90), 200),
    "CMYK": (CMYK, 0),
    "CMYK shrunk": (CMYK, 200),
}


@pytest.mark.parametrize("path", CUT_ON_OTHER_PATHS)
@pytest.mark.parametrize("share", [0.5, 0.75, 0.94])
def test_half_photo_with_an_end_is_rejected_on_each_path(path, share):
    found, max_side = CUT_ON_OTHER_PATHS[path]
    # A cut in the last scan of a progressive photo, half of its bytes here, leaves the colours nearly as they are.
    cut = found[: int(len(found) * share * (0.3 if "progressive" in path else 1))]
    for half in (cut + END, cut + bytes(len(found) - len(cut)), cut + bytes(len(found) - len(cut) - 2) + END):
        with pytest.raises(photos.Rejected, match=r"^damaged: cut short, \d+\.\d% of its pixels are missing$"):
            photos.read_photo(half, max_side)


def test_whole_photos_of_flat_ends_are_used_on_each_path():
    image = paint(1, 640, 480)
    image.paste((250, 250, 250), (0, 300, 640, 480))
    for kind in (image, image.convert("L"), image.convert("CMYK")):
        for options in ({}, {"progressive": True}):
            found = save(kind, "JPEG", quality=90, **options)
            stored = photos.read_photo(found, 200)
            expected = np.asarray(kind.convert("RGB").resize((200, 150), Image.Resampling.LANCZOS)).astype(int)
            assert np.abs(stored.pixels - expected).mean() < 4


def test_photo_that_lacks_its_last_bytes_is_used():
    stored = photos.read_photo(FOUND[:-12])
    off = np.abs(stored.pixels.astype(int) - np.asarray(load(FOUND)))
    assert off[:464].mean() < 1 and off.mean() < 2


@pytest.mark.parametrize("found", [FOUND[:-2], FOUND[:-2] + bytes(range(1, 200)) + END, PROGRESSIVE[:-2]])
def test_what_is_stored_decodes_without_a_word(found, capfd):
    stored = photos.read_photo(found)
    assert capfd.readouterr().err == ""  # of the look at the original, too
    records.decode_image(stored.encoded)
    assert capfd.readouterr().err == ""


def test_complaints_are_kept_and_lines_of_others_written(capfd):
    with jpeg.complaints() as found:
        os.write(2, b"Corrupt JPEG data: 7 extraneous bytes\nof others\nPremature end of JPEG file\n")
    assert found == [b"Corrupt JPEG data: 7 extraneous bytes\n", b"Premature end of JPEG file\n"]
    assert capfd.readouterr().err == "of others\n"


def test_max_side_counts_the_pixels_that_are_decoded():
    """1.9 megapixels, decoded at an eighth; a progressive photo is held whole."""
    options = {"max_side": 60, "max_megapixels": 1}
    assert photos.read_photo(save(paint(1, 1600, 1200), "JPEG"), **options).pixels.shape == (45, 60, 3)
    for found in (save(paint(1, 1600, 1200), "JPEG", progressive=True), save(paint(1, 1600, 1200), "PNG")):
        with pytest.raises(photos.Rejected, match="too large: 1600 x 1200 is over 1 megapixels"):
            photos.read_photo(found, **options)


ADOBE = save(paint(1, 640, 480).convert("CMYK"), "JPEG")


@pytest.mark.parametrize(
    ("found", "plain"),
    [
        (FOUND, True),
        (PROGRESSIVE, True),
        (save(paint(1).convert("L"), "JPEG"), True),
        (FOUND + bytes(99), True),
        (FOUND[:-2], False),
        (ADOBE, False),
        (save(paint(1, 640, 480), "JPEG", exif=exif(6)), False),
        (save(paint(1, 640, 480), "JPEG", exif=exif(1)), False),  # Pillow looks at it
        (save(paint(1, 640, 480), "PNG"), False),
        (save(paint(1, 641, 480), "JPEG"), False),
        (b"\xff\xd8\xff", False),
        (FOUND[:30] + END, False),
        (b"", False),
    ],
)
def test_is_plain_by_header_and_end(found, plain):
    assert jpeg.is_plain(found, 640 * 480) == plain
