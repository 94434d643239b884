"""Photos in zip and tar files, read in place: nothing is ever extracted.

A compressed tar is refused: each read from its middle would unpack everything before it, and photos are compressed
already. In a bucket, the directory of a zip, and each photo, is one request for its own bytes; a tar has no directory,
so listing it reads it once.
"""

import copy
import io
import os
import posixpath
import re
import tarfile
import zipfile
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import UserError
from univip_jax.common.files import at, read_bytes
from univip_jax.data.photos.decode import Rejected
from univip_jax.data.photos.listing import Listing, PhotoFile, as_text, is_photo, refused

_AHEAD_ZIP, _AHEAD_TAR = 1 << 16, 1 << 24  # bytes that a request reads ahead: zips end with their directories
_MOST_NAMES = 2 * 0xFFFF + 30  # bytes of a zip's member before its data


def list_archive(path: Path) -> Listing:
    """Photos by suffix, unsorted; of several members with one name the last counts, as if unpacked.

    Members whose names lead out of the archive (`../`, absolute) and members that are no files are `refused`.

    Raises UserError: neither zip nor plain tar, damaged, or no right to read it.
    """
    passed_over: Counter[str] = Counter()
    try:
        with _opened(path, _AHEAD_ZIP) as file:
            if is_zip := zipfile.is_zipfile(file):
                by_id = {photo.image_id: photo for photo in _list_zip(file, path, passed_over)}
        if not is_zip:
            with _opened(path, _AHEAD_TAR) as file:
                by_id = {photo.image_id: photo for photo in _list_tar(file, path, passed_over)}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError, NotImplementedError) as error:
        raise UserError(
            f"--images={path} cannot be read, is damaged, or is no zip or uncompressed tar file ({error}): give one "
            "that you may read, or a folder"
        ) from error
    return Listing(list(by_id.values()), passed_over)


def _opened(path: Path, ahead: int) -> BinaryIO:
    return path.open("rb", block_size=ahead, cache_type="readahead") if is_bucket(path) else open(path, "rb")


def _list_zip(file: BinaryIO, path: Path, passed_over: Counter[str]) -> Iterable[PhotoFile]:
    with zipfile.ZipFile(file) as archive:
        for position, member in enumerate(archive.infolist()):
            name = _name(member).replace("\\", "/")  # some programs on Windows write them so
            if not member.is_dir() and is_photo(name, passed_over):
                yield _checked(name) or PhotoFile(as_text(_tidy(name)), str(path), member.file_size, "zip", position)


def _name(member: zipfile.ZipInfo) -> str:
    """The member's name; one that is UTF-8 without saying so, as older macOS writes them, is read as UTF-8."""
    try:
        return member.filename if member.flag_bits & 0x800 else member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def _list_tar(file: BinaryIO, path: Path, passed_over: Counter[str]) -> Iterable[PhotoFile]:
    members: dict[str, tarfile.TarInfo] = {}
    for member in _tar_members(file):
        if (refusal := _checked(member.name)) is None:
            members[_tidy(member.name)] = member
        elif is_photo(member.name, passed_over):
            yield refusal
    for name, member in members.items():
        if member.isdir() or not is_photo(name, passed_over):
            continue
        target = _target(members, name)
        if target is None:
            yield refused(name, "a link to what the archive does not hold")
        elif target.isreg() and not target.issparse():
            yield PhotoFile(as_text(name), str(path), target.size, "tar", target.offset_data)
        else:
            yield refused(name, "not a regular file")


def _tar_members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Members of a tar, and of all that `cat` joined to it; a reader ends at the first one's zeros."""
    is_tar = True
    while is_tar:
        start = file.tell()
        with tarfile.open(fileobj=file, mode="r:") as archive:
            yield from archive
        if archive.offset == start > 0:
            raise tarfile.ReadError(f"damaged header at byte {start}")
        file.seek(archive.offset)
        block = bytes(tarfile.BLOCKSIZE)
        while block and not block.strip(b"\0"):
            block = file.read(tarfile.BLOCKSIZE)
        file.seek(-len(block), os.SEEK_CUR)
        is_tar = block[257:262] == b"ustar"


def _target(members: dict[str, tarfile.TarInfo], name: str) -> tarfile.TarInfo | None:
    """The member that a link leads to, if there is one; for a member that is no link, the member itself."""
    member = members[name]
    for _ in range(8):  # links to links; one that leads to itself stays a link
        if member.islnk():
            name = _tidy(member.linkname)
        elif member.issym():
            name = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
        if (member := members.get(name)) is None:
            return None
    return member


def _checked(name: str) -> PhotoFile | None:
    """The refusal of a name that leads out of the archive; None for a safe name."""
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
        return refused(name, "unsafe name: it leads out of the archive")
    return None


def _tidy(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def read_member(photo: PhotoFile) -> bytes:
    """The bytes of a photo in an archive; the checksum of a zip's member is verified.

    Raises:
        Rejected: the member is damaged, cut short, encrypted, or compressed in a way that Python does not know.
        UserError: the archive can no longer be read. TransientError: a bucket cannot be reached.
    """
    try:
        if photo.kind == "tar":
            data = read_bytes(photo.path, photo.position, photo.position + photo.num_bytes)
        else:
            archive = _with_member(photo)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"--images={photo.path} cannot be read ({error}): was it moved or changed?") from error
    if photo.kind == "zip":
        try:
            return archive.read(archive.infolist()[photo.position])
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error).split(" for ")[0]
            raise Rejected(f"unreadable member: {reason}") from error
    if len(data) < photo.num_bytes:
        raise Rejected("unreadable member: the archive ends before it")
    return data


def _with_member(photo: PhotoFile) -> zipfile.ZipFile:
    """The zip that holds a photo; of one in a bucket, a copy that reads this member alone, fetched by one request."""
    archive, starts = _open_zip(photo.path)
    if not is_bucket(photo.path):
        return archive
    member, alone = archive.infolist()[photo.position], copy.copy(archive)
    start, most = member.header_offset, min(member.compress_size, 2 * member.file_size + _MOST_NAMES) + _MOST_NAMES
    end = next(iter(starts[bisect_right(starts, start) :][:1]), start + most)
    alone.fp = _Part(read_bytes(photo.path, start, min(end, start + most)), start)
    return alone


class _Part(io.BytesIO):
    """A part of a file, as the file."""

    def __init__(self, data: bytes, start: int):
        super().__init__(data)
        self._start = start

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(place - self._start, whence) + self._start

    def tell(self) -> int:
        return super().tell() + self._start


@lru_cache(maxsize=4)  # an open archive stays open: reading a large one's directory takes seconds in each process
def _open_zip(path: str) -> tuple[zipfile.ZipFile, list[int]]:
    """A zip, and where its members and its directory begin."""
    archive = zipfile.ZipFile(_opened(at(path), _AHEAD_ZIP) if is_bucket(path) else path)
    if not is_bucket(path):
        return archive, []
    return archive, sorted({archive.start_dir, *(member.header_offset for member in archive.infolist())})
