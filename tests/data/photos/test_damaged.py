"""Damaged bytes: a photo is used with its pixels or rejected, and no other program is ever run for it."""

import io
import subprocess

import numpy as np
import pytest
from PIL import Image

from tests.data.photos.test_formats import GREY, RGB, exif, save
from univip_jax.data.photos import decode as photos

DEEP = GREY.astype(np.uint16) * 16
OF_PNG = {
    "RGB": save(RGB, "PNG"),
    "grey": save(GREY, "PNG"),
    "palette": save(Image.fromarray(RGB).convert("P"), "PNG"),
    "alpha": save(np.dstack([RGB, GREY]), "PNG"),
    "16 bit": save(DEEP, "PNG"),
    "1 bit": save(GREY > 99, "PNG"),
    "turned": save(RGB, "PNG", exif=exif(6)),
}


def outcome(found, max_side):
    """None where it is rejected, else the stored pixels."""
    try:
        return photos.read_photo(found, max_side).pixels.astype(int)
    except photos.Rejected as error:
        assert str(error).startswith("damaged"), error
        return None


def damages(found, number):
    """40 bytes of zeros, and single bits, anywhere in the pixels."""
    start, end = found.index(b"IDAT") + 4, len(found) - 20
    draws = np.random.default_rng(7)
    for place in (start + (end - start) // 2, end - 60):
        yield found[:place] + bytes(40) + found[place + 40 :]
    for place in draws.integers(start, end, number):
        changed = bytearray(found)
        changed[place] ^= 1 << draws.integers(8)
        yield bytes(changed)


@pytest.mark.parametrize("max_side", [0, 60])
@pytest.mark.parametrize("mode", OF_PNG)
def test_png_of_damaged_pixels_is_rejected_and_never_half_black(mode, max_side):
    whole = outcome(OF_PNG[mode], max_side)
    for found in damages(OF_PNG[mode], 12):
        used = outcome(found, max_side)
        assert used is None or np.abs(used - whole).mean() < 5
    halved = next(damages(OF_PNG[mode], 0))
    assert outcome(halved, max_side) is None
    try:
        mended = photos.as_stored(halved)
    except photos.Rejected:
        return
    with pytest.raises(photos.tf.errors.OpError):  # which names it
        photos.records.decode_image(mended)


def test_only_formats_of_photos_are_read_whatever_the_suffix(monkeypatch):
    """Pillow runs Ghostscript for EPS."""
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was run"))
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "EPS")
    for found in (buffer.getvalue(), save(RGB, "TGA"), save(RGB, "PCX")):
        with pytest.raises(photos.Rejected, match=r"^not an image$"):
            photos.read_photo(found)
        with pytest.raises(photos.Rejected, match=r"^not an image$"):
            photos.as_stored(found)


@pytest.mark.parametrize("size", [16, 40, 1000])
def test_webp_cut_short_is_damaged_and_no_other_file(size):
    with pytest.raises(photos.Rejected, match=r"^damaged: WebP that is cut short or broken$"):
        photos.read_photo(save(RGB, "WEBP")[:size])
