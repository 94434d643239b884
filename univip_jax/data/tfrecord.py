"""TFRecord files: written through to the disk, and one record read from a bucket's; `ranges` reads many."""

import os
from collections.abc import Iterable
from pathlib import Path

from univip_jax.common import objects
from univip_jax.common.errors import UserError
from univip_jax.common.files import at
from univip_jax.data.host import tf

FRAME_BYTES = 16  # of TFRecord: length (8) and its checksum (4) before the payload, the payload's checksum (4) after it
_MOST_PHOTOS = 1 << 18  # bytes, which the records of most photos fit
_LARGEST = 1 << 31  # bytes of a record


def write_shard(path: Path, serialized: Iterable[bytes]) -> list[int]:
    """Writes records to a TFRecord file (zero records: an empty file), through to the disk.

    Returns:
        The byte offset of each record.

    Raises UserError: the file cannot be written (disk full, no permission).
    """
    offsets, position = [], 0
    try:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for payload in serialized:
                writer.write(payload)
                offsets.append(position)
                position += len(payload) + FRAME_BYTES
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    except (tf.errors.OpError, OSError) as error:
        reason = error.message if isinstance(error, tf.errors.OpError) else error
        raise UserError(f"{path} cannot be written ({reason}): free space or rights, then run again") from error
    return offsets


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
