"""One record of a TFRecord file in a bucket, verified; `ranges` reads many."""

from univip_jax.common import objects
from univip_jax.common.files import at
from univip_jax.data.host import tf

FRAME_BYTES = 16  # of TFRecord: length (8) and its checksum (4) before the payload, the payload's checksum (4) after it
_MOST_PHOTOS = 1 << 18  # bytes, which the records of most photos fit
_LARGEST = 1 << 31  # bytes of a record


def fetch_record(path: str, offset: int) -> bytes:
    """The record at a byte offset of a TFRecord file in a bucket, by one request, or two for a large one.

    Raises tf.errors.DataLossError: it is damaged.
    """
    framed = objects.read(at(path), offset, offset + _MOST_PHOTOS)
    size = int.from_bytes(framed[:8], "little") + FRAME_BYTES
    if _MOST_PHOTOS < size < _LARGEST:
        framed += objects.read(at(path), offset + _MOST_PHOTOS, offset + size)
    return unframed(framed[:size], f"{path}: the record at byte {offset}")


def unframed(framed: bytes, where: str) -> bytes:
    """The payload of one record as TFRecord frames it; raises tf.errors.DataLossError: its checksums do not agree."""
    import google_crc32c  # late: it comes with requirements-cloud.txt

    def masked(part: bytes) -> bytes:
        value = google_crc32c.value(part)
        return ((value >> 15 | value << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")

    head, payload, tail = framed[:8], framed[12:-4], framed[-4:]
    whole = len(framed) >= FRAME_BYTES and int.from_bytes(head, "little") == len(payload)
    if not whole or masked(head) != framed[8:12] or masked(payload) != tail:
        raise tf.errors.DataLossError(None, None, f"{where} is damaged: its checksum does not agree")
    return payload
