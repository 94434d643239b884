"""Colours and depths of any photo to 8 bit RGB, by one rule, stated in `to_8_bit`."""

import io

import cv2
import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, ImageCms, TiffImagePlugin

_WHITES = (1, 255, 1023, 4095, 16383, 65535)
_BITS_TAG, _PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF

# It would write of odd tags to the terminal; what cannot be read is rejected with a reason.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class UnknownPixels(ValueError):
    """Pixels without a known meaning; the message says which."""


def to_8_bit(values: Num[np.ndarray, "H W *C"]) -> UInt8[np.ndarray, "H W *C"]:
    """Brightness of deep pixels as 8 bit: 0 is black, or the smallest value where that is negative.

    White is the smallest of 1 (of floats alone), 255, 1023, 4095, 16383 and 65535 that is not below the largest value;
    above 65535, and of floats that would all be black, it is the largest value. So 10, 12 and 14 bits in files of 16
    keep their brightness, whatever the photo. Up to 1 % of the values may be infinite or no number: they become black.

    Raises UnknownPixels: more than that are.
    """
    is_float = values.dtype.kind == "f"
    small = np.int32 if values.dtype.itemsize <= 2 else np.int64
    values = values.astype(np.float64 if is_float else small)  # a copy, changed in place: photos have 10^8 pixels
    if is_float and not (finite := np.isfinite(values)).all():
        if finite.mean() < 0.99:
            raise UnknownPixels(f"{1 - finite.mean():.0%} of its values are infinite or no numbers")
        values[~finite] = min(0, values[finite].min())
    values -= min(0, values.min())
    largest = values.max()
    white = next((white for white in _WHITES[not is_float :] if white >= largest), largest)
    if is_float:
        values *= 255 / (largest if 0 < largest < 1 / 255 else white)
        return values.round().astype(np.uint8)
    values *= 255
    values //= white
    return values.astype(np.uint8)


def deep_rgb(image: Image.Image, original: bytes) -> Image.Image | None:
    """A loaded photo as 8 bit RGB by `to_8_bit`, turned as `image` is; None where Pillow's own 8 bit are right.

    Pillow reads 16 bit RGB by their high bytes: right where white is 65535, too dark otherwise.

    Raises UnknownPixels: no known brightness.
    """
    if image.mode.startswith("I") or image.mode == "F":
        grey = to_8_bit(np.asarray(image))
        if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:
            grey = 255 - grey
        return Image.fromarray(grey).convert("RGB")
    if has_16_bits(image, original) and np.asarray(image.convert("RGB")).max() < 64:
        return by_opencv(original)
    return None


def has_16_bits(image: Image.Image, original: bytes) -> bool:
    """Whether a PNG or a TIFF has 16 bits a channel."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_TAG, (8,))) == 16
    return image.format == "PNG" and original[24] == 16


def tiff_size(data: bytes) -> tuple[int, int]:
    """Width and height by a TIFF's first directory, where Pillow knows the file but not its pixels; (0, 0): no TIFF."""
    try:
        directory, file = TiffImagePlugin.ImageFileDirectory_v2(data[:8]), io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        return int(directory[256]), int(directory[257])
    except Exception:  # damaged bytes can raise anything
        return 0, 0


def by_opencv(original: bytes) -> Image.Image:
    """A PNG or TIFF as 8 bit RGB by `to_8_bit`; a TIFF is turned by its tag, as Pillow does.

    Raises ValueError: OpenCV does not read it either. UnknownPixels: no known brightness.
    """
    try:
        values = cv2.imdecode(np.frombuffer(original, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    if values is None or (values.ndim == 3 and values.shape[2] < 3):
        raise ValueError("neither Pillow nor OpenCV reads its pixels")
    return Image.fromarray(to_8_bit(values if values.ndim == 2 else values[..., 2::-1])).convert("RGB")


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
