"""A data set's folder in a bucket: one listing, many small files at once, and records by ranges of bytes."""

from pathlib import Path

from univip_jax.common.files import at
from univip_jax.data.host import tf

FRAME_BYTES = 16  # of TFRecord: length (8) and its checksum (4) before the payload, the payload's checksum (4) after it
_MOST_PHOTOS = 1 << 18  # bytes, which the records of most photos fit
_LARGEST = 1 << 31  # bytes of a record


def list_with_contents(folder: Path, names: list[str]) -> tuple[dict[str, int], list[bytes | None]]:
    """The size of each object in a bucket's folder by its name, and the contents of some; None: there is none."""
    sizes = {found["name"].rpartition("/")[2]: found["size"] for found in folder.fs.ls(str(folder), detail=True)}
    there = [name for name in names if name in sizes]
    found = folder.fs.cat([str(folder / name) for name in there]) if there else {}
    contents = {path.rpartition("/")[2]: value for path, value in found.items()}
    return sizes, [contents.get(name) for name in names]


def fetch_record(path: str, offset: int) -> bytes:
    """The record at a byte offset of a TFRecord file in a bucket, by one request, or two for a large one.

    Raises tf.errors.DataLossError: it is damaged.
    """
    client = at(path).fs
    framed = client.cat_file(path, start=offset, end=offset + _MOST_PHOTOS)
    size = int.from_bytes(framed[:8], "little") + FRAME_BYTES
    if _MOST_PHOTOS < size < _LARGEST:
        framed += client.cat_file(path, start=offset + _MOST_PHOTOS, end=offset + size)
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
