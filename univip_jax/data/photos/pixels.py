"""Colours and depths of any photo to 8 bit RGB, by one rule, stated in `to_8_bit`."""

import io
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, ImageCms, TiffImagePlugin

_WHITES = (1, 255, 1023, 4095, 16383, 65535)
_NO_DATA = (-9999, -32767, -32768)  # of floats, where a file does not say
_LARGEST = 1e30  # of floats that mean something
_BITS_TAG, _PHOTOMETRIC_TAG, _PLANES_TAG, _SIGN_TAG, _NO_DATA_TAG = 258, 262, 284, 339, 42113  # of TIFF
_WHITE_IS_ZERO, _SEPARATE, _UNSIGNED = 0, 2, 1

# It would write of odd tags to the terminal; what cannot be read is rejected with a reason.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class UnknownPixels(ValueError):
    """Pixels without a known meaning; the message says which."""


def to_8_bit(values: Num[np.ndarray, "H W *C"], no_data: float | None = None) -> UInt8[np.ndarray, "H W *C"]:
    """Brightness of deep pixels as 8 bit.

    Integers, and floats that are all whole: black is 0, or the smallest value where that is negative; white is the
    smallest of 1 (of floats), 255, 1023, 4095, 16383 and 65535 that is not below the largest value; above 65535 it is
    the largest value. So 10, 12 and 14 bits in files of 16 keep their brightness, whatever the photo.

    Other floats go by their 0.1th and 99.9th percentile, as a few may lie far out. Where both are within -0.05..1.05
    (resampling overshoots 0..1) and not all would be black, white is 1; otherwise black is the lower one, or 0 where
    that is positive, and white the upper one. What lies beyond is clipped.

    Values equal to `no_data`, and floats that are not finite, beyond +-1e30, -9999, -32767 or -32768, are left out of
    this and become black.

    Raises UnknownPixels: those are more than half.
    """
    is_float = values.dtype.kind == "f"
    good = values != no_data if no_data is not None else np.ones(values.shape, bool)
    if is_float:
        good &= (np.abs(values) <= _LARGEST) & ~np.isin(values, _NO_DATA)  # false for what is no number
    if (share := good.mean()) < 0.5:
        raise UnknownPixels(f"{1 - share:.0%} of its values are infinite, no numbers or no data")
    small = np.int32 if values.dtype.itemsize <= 2 else np.int64
    values = values.astype(np.float64 if is_float else small)  # a copy, changed in place: photos have 10^8 pixels
    known = values if share == 1 else values[good]
    black, white = min(0, known.min()), known.max()
    few = known.ravel()[:: max(1, known.size // 10**6)]
    if is_float and (few % 1 != 0).any():
        low, high = np.percentile(few, (0.1, 99.9))
        unit = low >= -0.05 and 1 / 255 <= high <= 1.05
        black, white = (0, 1) if unit else (min(0, low), high)
    else:
        white = next((one for one in _WHITES[not is_float :] if one >= white - black), white - black) + black
    values[~good] = black
    np.clip(values, black, white, out=values)
    values -= black
    if is_float:
        values *= 255 / ((white - black) or 1)
        return values.round().astype(np.uint8)
    values *= 255
    values //= white - black
    return values.astype(np.uint8)


def deep_rgb(image: Image.Image, original: bytes) -> Image.Image | None:
    """A loaded photo as 8 bit RGB by `to_8_bit`, turned as `image` is; None where Pillow's own 8 bit are right.

    Pillow reads 16 bit RGB by their high bytes: right where white is 65535, too dark otherwise. It reads unsigned
    integers of 32 bits as signed ones, and takes separate planes of 16 bits for planes of 8.

    Raises UnknownPixels: no known brightness.
    """
    tags = image.tag_v2 if image.format == "TIFF" else {}
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if (
            max(tags.get(_BITS_TAG, (0,))) == 32
            and image.mode == "I"
            and _UNSIGNED in tags.get(_SIGN_TAG, (_UNSIGNED,))
        ):
            values = values.view(np.uint32)
        grey = to_8_bit(values, _no_data(tags))
        if tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:
            grey = 255 - grey
        return Image.fromarray(grey).convert("RGB")
    if has_16_bits(image, original) and (
        tags.get(_PLANES_TAG) == _SEPARATE or np.asarray(image.convert("RGB")).max() < 64
    ):
        return by_opencv(original)
    return None


def has_16_bits(image: Image.Image, original: bytes) -> bool:
    """Whether a PNG or a TIFF has 16 bits a channel."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_TAG, (8,))) == 16
    return image.format == "PNG" and original[24] == 16


def _tags(data: bytes) -> Mapping[int, Any]:
    """A TIFF's first directory, where Pillow knows the file but not its pixels; empty: no TIFF."""
    try:
        directory, file = TiffImagePlugin.ImageFileDirectory_v2(data[:8]), io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        return dict(directory)
    except Exception:  # damaged bytes can raise anything
        return {}


def tiff_size(data: bytes) -> tuple[int, int]:
    """Width and height of a TIFF; (0, 0): no TIFF."""
    tags = _tags(data)
    sides = tags.get(256), tags.get(257)
    return sides if all(isinstance(side, int) for side in sides) else (0, 0)


def _no_data(tags: Mapping[int, Any]) -> float | None:
    """The value that GDAL gives to pixels without data."""
    try:
        return float(tags[_NO_DATA_TAG])
    except (KeyError, TypeError, ValueError):
        return None


def by_opencv(original: bytes) -> Image.Image:
    """A PNG or TIFF as 8 bit RGB by `to_8_bit`; a TIFF is turned by its tag, as Pillow does.

    Raises ValueError: OpenCV does not read it either. UnknownPixels: no known brightness.
    """
    tags = _tags(original)
    if tags.get(_PLANES_TAG) == _SEPARATE and len(tags.get(_BITS_TAG, ())) > 1:  # OpenCV gives noise, too
        raise UnknownPixels(f"separate planes of {tags[_BITS_TAG][0]} bits: store the channels of a pixel together")
    try:
        values = cv2.imdecode(np.frombuffer(original, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    if values is None or (values.ndim == 3 and values.shape[2] < 3):
        raise ValueError("neither Pillow nor OpenCV reads its pixels")
    values = values if values.ndim == 2 else values[..., 2::-1]
    return Image.fromarray(to_8_bit(values, _no_data(tags))).convert("RGB")


def to_rgb(image: Image.Image) -> Image.Image:
    """8 bit pixels of any mode as RGB; alpha is dropped.

    Raises UnknownPixels: no known colours.
    """
    if image.mode == "LAB":
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    if image.mode in ("P", "PA", "RGBa"):  # by way of RGBA: a palette may hold transparent colours
        image = image.convert("RGBA")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise UnknownPixels(f"colours of the kind {image.mode}") from error
