"""One photo's bytes, from any format that Pillow reads to what is stored: JPEG or PNG, 8 bit RGB or grey, upright."""

import io
import re
import warnings
from typing import NamedTuple

import numpy as np
import pillow_heif
from jaxtyping import UInt8
from PIL import Image, ImageOps

from univip_jax.data import records
from univip_jax.data.host import tf
from univip_jax.data.photos import FORMATS, jpeg, pixels, png

MAX_MEGAPIXELS = 100
_JPEG_QUALITY = 95
_MAX_MISSING = 0.01  # of a JPEG's pixels
_JPEG = ("JPEG", "MPO")  # MPO: a JPEG with more pictures behind the first, as phones write it
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_TURNS = (None, None, 0, 3, 1, 5, 4, 6, 2)  # `Image.Transpose` for each of its values, 0 to 8
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

# Pillow's own limit warns from 89 million pixels on and raises from 179 million; read_photo's is the only limit here.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of odd metadata in each photo.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Pillow reads AVIF, but no HEIC.
pillow_heif.register_heif_opener(thumbnails=False)


class Rejected(Exception):
    """A photo that cannot be used. The message, "kind" or "kind: detail", depends on its bytes only."""


class StoredPhoto(NamedTuple):
    """A photo as a record stores it."""

    encoded: bytes  # JPEG or PNG
    pixels: UInt8[np.ndarray, "H W 3"]  # RGB
    original_height: int  # px, as encoded in the file: before it was turned upright and shrunk
    original_width: int  # px
    orientation: int = 1  # EXIF's, 1 to 8: how the encoded pixels must be turned; 1: not at all


def read_photo(original: bytes, max_side: int = 0, max_megapixels: int = MAX_MEGAPIXELS) -> StoredPhoto:
    """Decodes a photo and encodes it again where it must.

    RGB or grey JPEG and PNG that need no EXIF rotation are stored as they are. Everything else is encoded again: PNG
    (palette, alpha, 16 bit grey, ...) as RGB PNG, without loss; other formats (HEIC, WebP and TIFF, which TensorFlow
    does not read, BMP, GIF, CMYK JPEG) as JPEG of quality 95: PNG would be 3.4 times larger, and augmentation changes
    pixels far more than this quality does. Alpha is dropped; of several frames the first is taken. Deep pixels become 8
    bit by `pixels.to_8_bit`. A JPEG without its end, or of which libjpeg complains, is encoded again where at most 1 %
    of its pixels are missing (`jpeg.missing_share`; complaints are not looked for where it is shrunk).

    Args:
        original: the file's bytes.
        max_side: a photo whose long side exceeds this (px) is stored as a JPEG with this long side; 0: no limit.
        max_megapixels: most pixels that are decoded, in millions. A JPEG that is shrunk is decoded at a half, a quarter
            or an eighth of its size.

    Raises:
        Rejected: the bytes are no image, are damaged or cut short, have too many pixels, or TensorFlow, which decodes
            them in training, does not read them.
    """
    if not original:
        raise Rejected("empty file")
    try:
        return _read(original, max_side, max_megapixels)
    except Rejected:
        # Text or a colour profile, damaged or larger than Pillow takes, does not make a PNG a bad photo.
        if (bare := png.bare(original)) is None:
            raise
        return _read(bare, max_side, max_megapixels)


def as_stored(original: bytes) -> bytes:
    """The bytes that `read_photo` stores, fast: what is stored as it is, by its header and its end, is not decoded.

    Raises Rejected: see `read_photo`.
    """
    if jpeg.is_plain(original, MAX_MEGAPIXELS * 10**6):  # Pillow takes ten times longer
        return original
    try:
        with Image.open(io.BytesIO(original), formats=FORMATS) as image:
            whole = jpeg.has_end(original) if image.format in _JPEG else original.endswith(png.END)
            turned = image.format != "PNG" or any(word in original for word in png.TURNING)
            plain = whole and _is_storable(image) and not pixels.has_16_bits(image, original)
            small = image.width * image.height <= MAX_MEGAPIXELS * 10**6
            if plain and small and not (turned and _orientation(image) != 1):
                return original
    except Exception:  # `read_photo` says what is wrong, or mends it
        pass
    return read_photo(original).encoded


def check_end(original: bytes, last_row: UInt8[np.ndarray, "W C"], height: int) -> None:
    """Looks at a photo of `as_stored` once it is decoded, fast unless its last row is flat.

    Raises Rejected: a JPEG that lacks more than 1 % of its pixels though it has an end.
    """
    if original.startswith(b"\xff\xd8") and jpeg.ends_flat(last_row, height):
        try:
            _mended(original, 0)
        except OSError as error:
            raise Rejected(f"damaged{_detail(error)}") from error


def _read(original: bytes, max_side: int, max_megapixels: int) -> StoredPhoto:
    image = _open(original, max_megapixels)
    encoded_size = image.size
    if max_side >= max(image.size):
        max_side = 0
    _draft(image, max_side)
    width, height = image.size if max_side and jpeg.decodes_in_strips(original) else encoded_size
    if width * height > max_megapixels * 10**6:
        raise Rejected("too large: {} x {} is over {} megapixels".format(*encoded_size, max_megapixels))
    try:
        return _store(image, original, encoded_size, max_side)
    except (Rejected, MemoryError):
        raise
    except pixels.UnknownPixels as error:
        raise Rejected(f"unknown pixels: {error}") from error
    except Exception as error:
        raise Rejected(f"damaged{_detail(error, image.format)}") from error


def _open(original: bytes, max_megapixels: int) -> Image.Image:
    try:
        return Image.open(io.BytesIO(original), formats=FORMATS)
    except Exception as error:  # damaged bytes can raise anything inside Pillow's parsers
        width, height = pixels.tiff_size(original)
        if 0 < width * height <= max_megapixels * 10**6:
            try:
                return pixels.by_opencv(original)  # floats and integers in several channels
            except ValueError as reason:
                kind = "unknown pixels" if isinstance(reason, pixels.UnknownPixels) else "damaged"
                raise Rejected(f"{kind}: {reason}") from error
        if original[4:8] == b"ftyp" and original[8:12] in _HEIF_BRANDS:
            raise Rejected(f"damaged{_detail(error, 'HEIF')}") from error
        if original.startswith(b"RIFF") and original[8:12] == b"WEBP":
            raise Rejected("damaged: WebP that is cut short or broken") from error
        raise Rejected(f"not an image{_detail(error)}") from error


def _draft(image: Image.Image, max_side: int) -> None:
    """A JPEG is decoded at a half, a quarter or an eighth of its size where that is still twice `max_side`, if any."""
    if max_side:
        image.draft(None, tuple(-(-2 * side * max_side // max(image.size)) for side in image.size))


def _store(image: Image.Image, original: bytes, encoded_size: tuple[int, int], max_side: int) -> StoredPhoto:
    """Loads an opened photo and stores it; `max_side` 0: in its own size."""
    if image.format == "PNG" and png.has_bad_pixels(original):
        raise Rejected("damaged: a checksum of its pixels is wrong")
    original_width, original_height = encoded_size
    orientation, is_tiff = _orientation(image), image.format == "TIFF"
    if is_tiff and orientation >= 5:  # Pillow turns TIFF by itself, and gives the size after that
        original_width, original_height = original_height, original_width
    facts = original_height, original_width, orientation
    image, whole = _load(image, original, max_side)
    deep = pixels.deep_rgb(image, original)
    if whole and _is_storable(image) and orientation == 1 and deep is None and not max_side:
        return StoredPhoto(original, np.asarray(pixels.to_rgb(image)), *facts)
    if deep is None:
        rgb = pixels.to_rgb(ImageOps.exif_transpose(image) if orientation != 1 else image)
        rgb.info.pop("transparency", None)  # Pillow would write it into the PNG
    else:
        rgb = deep if is_tiff or orientation == 1 else deep.transpose(Image.Transpose(_TURNS[orientation]))
    encoded_format = "PNG" if image.format == "PNG" and not max_side else "JPEG"
    if max_side:
        rgb.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    rgb.save(buffer, encoded_format, **({"quality": _JPEG_QUALITY} if encoded_format == "JPEG" else {}))
    # Proposals come from the pixels that training sees, after JPEG has changed them.
    stored = StoredPhoto(buffer.getvalue(), np.asarray(Image.open(buffer).convert("RGB")), *facts)
    if not _is_trainable(stored.encoded, stored.pixels.shape[:2]):
        raise Rejected("damaged: TensorFlow does not decode it as Pillow does")
    return stored


def _is_storable(image: Image.Image) -> bool:
    """Whether records may hold the bytes: formats and colours that TensorFlow reads."""
    return image.format in (*_JPEG, "PNG") and image.mode in ("RGB", "L")


def _load(image: Image.Image, original: bytes, max_side: int) -> tuple[Image.Image, bool]:
    """The photo with its pixels, and whether its bytes are whole."""
    try:
        image.load()
    except OSError:
        if image.format not in _JPEG:
            raise
    else:
        as_found = not max_side and _is_storable(image)
        if image.format not in _JPEG:
            return image, not as_found or _is_trainable(original, image.size[::-1])
        # TensorFlow decodes photos that are stored otherwise too slowly, or not at all.
        if _is_trainable(original, image.size[::-1]) if as_found else not jpeg.may_be_cut(original, np.asarray(image)):
            return image, True
    return _mended(original, max_side), False


def _mended(original: bytes, max_side: int) -> Image.Image:
    """A JPEG, loaded, with a proper end; raises Rejected where it lacks too many pixels."""

    def load(data: bytes) -> Image.Image:
        again = Image.open(io.BytesIO(data), formats=FORMATS)
        _draft(again, max_side)
        again.load()
        return again

    if (missing := jpeg.missing_share(original, load)) > _MAX_MISSING:
        raise Rejected(f"damaged: cut short, {missing:.1%} of its pixels are missing")
    return load(jpeg.with_end(original))


def _is_trainable(encoded: bytes, sides: tuple[int, int]) -> bool:
    """Whether TensorFlow, which decodes records in training, reads height and width `sides`, without complaints."""
    try:
        with jpeg.complaints() as complaints:
            shape = tuple(records.decode_image(encoded).shape)
    except tf.errors.OpError:
        return False
    return shape == (*sides, 3) and not complaints


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG":  # Pillow would load it below: what is damaged raises here, once
        image.load()
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF in a photo that is otherwise good
        return 1
    return value if value in range(1, 9) else 1


def _detail(error: Exception, kind: str | None = None) -> str:
    """The error's words, without memory addresses: the reason must be equal in every run; a HEIF's begin with that."""
    words = "" if isinstance(error, Image.UnidentifiedImageError) else str(error)
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]* at 0x[0-9a-fA-F]+>", "", words)).strip()
    parts = ["HEIF (HEIC)"] * (kind == "HEIF") + [words] * bool(words)
    return "".join(f": {part}" for part in parts)
