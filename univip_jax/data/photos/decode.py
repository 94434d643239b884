"""One photo's bytes, from any format that Pillow reads to what is stored: JPEG or PNG, 8 bit RGB or grey, upright."""

import io
import re
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from univip_jax.data import records

MAX_PIXELS = 100_000_000
_JPEG_QUALITY = 95
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright

# Pillow's own limit warns from 89 million pixels on and raises from 179 million; MAX_PIXELS is the only limit here.
Image.MAX_IMAGE_PIXELS = None


class Rejected(Exception):
    """A photo that cannot be used. The message, "kind" or "kind: detail", depends on its bytes only."""


class StoredPhoto(NamedTuple):
    """A photo as a record stores it."""

    encoded: bytes  # JPEG or PNG
    pixels: UInt8[np.ndarray, "H W 3"]  # RGB
    original_height: int  # px, as encoded in the file: before it was turned upright and shrunk
    original_width: int  # px
    orientation: int = 1  # EXIF's, 1 to 8: how the encoded pixels must be turned; 1: not at all


def read_photo(original: bytes, max_side: int = 0) -> StoredPhoto:
    """Decodes a photo and encodes it again where it must.

    RGB or grey JPEG and PNG that need no EXIF rotation are stored as they are. Everything else is encoded again: PNG
    (palette, alpha, 16 bit grey, ...) as RGB PNG, without loss; other formats (WebP and TIFF, which TensorFlow does not
    read, BMP, GIF, CMYK JPEG) as JPEG of quality 95: PNG would be 3.4 times larger, and augmentation changes pixels far
    more than this quality does. Alpha is dropped; of several frames the first is taken.

    Args:
        original: the file's bytes.
        max_side: a photo whose long side exceeds this (px) is stored as a JPEG with this long side; 0: no limit.

    Raises:
        Rejected: the bytes are no image, are damaged or cut short, have too many pixels, or TensorFlow, which decodes
            them in training, does not read them.
    """
    if not original:
        raise Rejected("empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata in each photo
        try:
            image = Image.open(io.BytesIO(original))
        except Exception as error:  # damaged bytes can raise anything inside Pillow's parsers
            raise Rejected(f"not an image{_detail(error)}") from error
        if image.width * image.height > MAX_PIXELS:
            raise Rejected(f"too large: {image.width} x {image.height} is over {MAX_PIXELS // 10**6} megapixels")
        try:
            stored = _store(image, original, max_side)
        except (Rejected, MemoryError):
            raise
        except Exception as error:
            raise Rejected(f"damaged{_detail(error)}") from error
    _check_trainable(stored)
    return stored


def _store(image: Image.Image, original: bytes, max_side: int) -> StoredPhoto:
    original_width, original_height = image.size
    orientation = _orientation(image)
    if image.format == "TIFF" and orientation >= 5:  # Pillow turns TIFF by itself, and gives the size after that
        original_width, original_height = original_height, original_width
    facts = original_height, original_width, orientation
    shrink = 0 < max_side < max(image.size)
    if shrink:
        # A JPEG is decoded at a half, a quarter or an eighth of its size where that is still twice `max_side`.
        image.draft(None, tuple(-(-2 * side * max_side // max(image.size)) for side in image.size))
    image.load()
    # MPO: a JPEG with more pictures behind the first, as phones write it.
    storable = image.format in ("JPEG", "MPO", "PNG") and image.mode in ("RGB", "L") and orientation == 1
    if storable and not shrink:
        return StoredPhoto(original, np.asarray(_to_rgb(image)), *facts)
    encoded_format = "PNG" if image.format == "PNG" and not shrink else "JPEG"
    rgb = _to_rgb(ImageOps.exif_transpose(image) if orientation != 1 else image)
    if shrink:
        rgb.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    rgb.save(buffer, encoded_format, **({"quality": _JPEG_QUALITY} if encoded_format == "JPEG" else {}))
    # Proposals come from the pixels that training sees, after JPEG has changed them.
    return StoredPhoto(buffer.getvalue(), np.asarray(Image.open(buffer).convert("RGB")), *facts)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF in a photo that is otherwise good
        return 1
    return value if value in range(1, 9) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bit grey; Pillow's own conversion clips at 255
        values = np.asarray(image).astype(np.int64)
        if values.max() > 255:
            values = values // 257
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise Rejected("unknown brightness range: floating-point pixels")
    if image.mode == "P":  # by way of RGBA: a palette may hold transparent colours
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _check_trainable(stored: StoredPhoto) -> None:
    """Training decodes records by TensorFlow: a photo that it refuses must not be stored."""
    try:
        shape = tuple(records.decode_image(stored.encoded).shape)
    except Exception as error:
        raise Rejected("damaged: TensorFlow does not decode it") from error
    if shape != stored.pixels.shape:
        raise Rejected(f"damaged: TensorFlow decodes it as {shape}, Pillow as {stored.pixels.shape}")


def _detail(error: Exception) -> str:
    """The error's words, without memory addresses: the reason must be equal in every run."""
    if isinstance(error, Image.UnidentifiedImageError) or not str(error):
        return ""
    return ": " + re.sub(r"\s+", " ", re.sub(r"<[^>]* at 0x[0-9a-fA-F]+>", "", str(error))).strip()
