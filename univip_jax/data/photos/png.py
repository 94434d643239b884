"""PNG files chunk by chunk: what decides the pixels, and whether it is damaged."""

import zlib
from collections.abc import Iterator

END = b"IEND\xaeB`\x82"
TURNING = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # where a PNG says how to turn it
_BEGIN = b"\x89PNG\r\n\x1a\n"
_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")  # that decide the pixels


def _chunks(data: bytes) -> Iterator[bytes]:
    """Each chunk with its size, name and checksum."""
    place = len(_BEGIN)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        yield data[place:end]
        place = end


def bare(data: bytes) -> bytes | None:
    """A PNG without text, colour profile and the like; None where there are none, and for other formats."""
    if not data.startswith(_BEGIN):
        return None
    kept = _BEGIN + b"".join(chunk for chunk in _chunks(data) if chunk[4:8] in _CHUNKS)
    return kept if len(kept) < len(data) else None


def has_bad_pixels(data: bytes) -> bool:
    """Whether a checksum of a PNG's pixels is wrong: Pillow looks at none of them. Missing ones are not wrong."""
    return any(
        chunk[4:8] == b"IDAT"
        and len(chunk) == 12 + int.from_bytes(chunk[:4])
        and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:])
        for chunk in map(memoryview, _chunks(data))
    )
