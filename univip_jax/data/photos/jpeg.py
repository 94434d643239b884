"""JPEG files that are not whole: what libjpeg complains of, and how much of the photo is missing."""

import os
import re
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image

_END = b"\xff\xd9"
_PADDING = bytes(1024)  # zeros that end no photo
_BLOCK = 16  # px: rows that a file holds together, at most
_COMPLAINT = re.compile(
    rb"^(?:Corrupt JPEG|Premature end of JPEG|Invalid SOS param|Inconsistent progression|Unknown Adobe color|"
    rb"Warning: unknown JFIF|Improper call to JPEG|Input file read error|Not a JPEG|Unsupported JPEG).*\n?",
    re.MULTILINE,
)
_lock = threading.Lock()


def _in_memory() -> BinaryIO:
    return open(os.memfd_create("libjpeg"), "rb+") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


@contextmanager
def complaints() -> Iterator[list[bytes]]:
    """Collects what libjpeg inside TensorFlow writes to the standard error output, once the block has ended.

    There is no other way to learn of them: each decoding writes them anew. Lines of others are written afterwards.
    """
    found: list[bytes] = []
    with _lock, _in_memory() as file:
        try:
            kept = os.dup(2)
        except OSError:  # no standard error output: nobody is disturbed
            yield found
            return
        os.dup2(file.fileno(), 2)
        try:
            yield found
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            text = file.read()
            found += _COMPLAINT.findall(text)
            if of_others := _COMPLAINT.sub(b"", text):
                os.write(2, of_others)


def has_end(data: bytes) -> bool:
    """Whether the end marker is where it belongs, with at most a few stray bytes behind it."""
    return _END in data[-1024:]


def without_end(data: bytes) -> bytes:
    """The bytes without end markers and padding behind the pixels."""
    while True:
        data = data.rstrip(b"\xff")  # half a marker, or padding before one
        end = len(data.rstrip(b"\0"))
        if data[:end].endswith(_END):
            data = data[: end - 2]
        elif len(data) - end >= 16:  # fewer may belong to the pixels
            data = data[:end]
        else:
            return data


def with_end(data: bytes) -> bytes:
    """The same photo, ended properly."""
    return without_end(data) + _END


def may_be_cut(data: bytes, image: np.ndarray) -> bool:
    """Whether a decoded JPEG, [H, W, ...], of any scale, may lack more than `missing_share` can leave: a cheap look.

    Behind a cut libjpeg decodes one flat colour, zeros are often padding, and a progressive photo may lack scans.
    """
    body = without_end(data)
    return len(data) - len(body) > 64 or ends_flat(image[-1], len(image)) or not _has_all_scans(body)


def ends_flat(row: np.ndarray, height: int) -> bool:
    """Whether the end of the last row of pixels, [W, ...], has one colour, as where 1 % of a JPEG is missing."""
    tail = row[-max(2, min(len(row), height * len(row) // (200 * _BLOCK))) :]
    return bool((tail == tail[-1]).all())


def missing_share(data: bytes, load: Callable[[bytes], Image.Image]) -> float:
    """The share of the photo's pixels that are not in the file, or not at full precision.

    What follows the cut is unknown: from the first pixel on that changes with what is put there, all are missing. A
    progressive photo of which whole scans are missing has no pixel at full precision.
    """
    body = without_end(data)
    if not _has_all_scans(body):
        return 1.0
    # Behind a whole part between restart markers, a decoder skips what stands before the next one.
    found = re.findall(rb"\xff[\xd0-\xd7]", body[body.rfind(b"\xff\xda") :])
    restart = bytes([0xFF, 0xD0 + (found[-1][1] + 1) % 8 if found else 0xD0])
    fillers = (value * 4096 + restart + value * 4096 + _END for value in (b"\0", b"\x55"))
    one, other = (np.asarray(load(body + filler)) for filler in fillers)
    height, width = one.shape[:2]
    changed = (one != other).reshape(height, width, -1).any(2)
    if not changed.any():
        return 0.0
    top = int(changed.any(1).argmax())
    left = int(changed[top : top + _BLOCK].any(0).argmax())
    block = min(_BLOCK, height - top)
    return (block * (width - left) + (height - top - block) * width) / (height * width)


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and contents of each segment before the first scan's pixels; that scan's header is the last."""
    place = 2
    while data[place : place + 1] == b"\xff":
        marker, size = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if marker == 0xFF:  # padding
            place += 1
            continue
        yield marker, data[place + 4 : place + 2 + size]
        if marker == 0xDA or size < 2:
            return
        place += 2 + size


def is_plain(data: bytes, max_pixels: int) -> bool:
    """Whether header and end are those of an ordinary JPEG: RGB or grey, without EXIF or XMP, which may turn it."""
    if not (data.startswith(b"\xff\xd8\xff") and has_end(data)) or _PADDING in data[-2 - len(_PADDING) :]:
        return False
    plain = False
    for marker, contents in _segments(data):
        if marker == 0xE1:
            return False
        if marker in (0xC0, 0xC1, 0xC2) and len(contents) > 5:
            bits, height, width, components = struct.unpack(">BHHB", contents[:6])
            plain = bits == 8 and components in (1, 3) and 0 < height * width <= max_pixels
    return plain


_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}


def decodes_in_strips(data: bytes) -> bool:
    """Whether libjpeg decodes row after row; it holds all pixels of a photo of several scans, at full size."""
    components = 0
    for marker, contents in _segments(data):
        if marker in _FRAMES - _PROGRESSIVE and len(contents) > 5:
            components = contents[5]
        if marker == 0xDA:
            return 0 < components == contents[0]
    return False


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans of a progressive photo give each coefficient of each component to the last bit."""
    segments = list(_segments(data))
    frame = next((contents for marker, contents in segments if marker in _PROGRESSIVE), None)
    if frame is None:
        return True
    left = {(component, order) for component in frame[6::3] for order in range(64)}
    start = data.index(b"\xff\xda", sum(len(contents) + 4 for _, contents in segments[:-1]))
    for found in re.finditer(rb"\xff\xda\x00[\x06-\x0e]([\x01-\x04])", data[start:], re.DOTALL):
        count, at = found[1][0], start + found.end()
        components, (first, last, bits) = data[at : at + 2 * count : 2], data[at + 2 * count : at + 2 * count + 3]
        if not bits & 15:
            left -= {(component, order) for component in components for order in range(first, last + 1)}
    return not left
