"""What a source lists: one entry a photo, and the stamps of what was looked at."""

import os
from typing import NamedTuple

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class Entry(NamedTuple):
    """A photo's place in its source."""

    name: str  # path in the source, forward slashes; bytes that are no UTF-8 as surrogates, as the os module gives them
    num_bytes: int  # -1 where unknown
    kind: str = "file"  # file | zip | tar | refused
    position: int = 0  # zip: number of the member; tar: byte offset of its data
    reason: str = ""  # refused: why


class Stamp(NamedTuple):
    """Time and size of a folder or an archive when it was listed: while they stay, its list of names does."""

    name: str  # path in the source; empty: the source itself
    mtime_ns: int
    num_bytes: int


class Listing(NamedTuple):
    """A source's photos, unsorted, and the stamps of the folders (or of the archive) that they were read from."""

    entries: list[Entry]
    stamps: list[Stamp]


def refused(name: str, reason: str) -> Entry:
    """An entry that is there to be counted and named in rejected.jsonl; it is never opened."""
    return Entry(name, -1, "refused", 0, reason)


def stamp_of(name: str, found: os.stat_result) -> Stamp:
    """The stamp of what `os.stat` has found."""
    return Stamp(name, found.st_mtime_ns, found.st_size)


def is_photo(name: str) -> bool:
    """Whether a path ends as photos do, in any letter case, and nothing in it is hidden (begins with a dot)."""
    return name.lower().endswith(SUFFIXES) and not any(
        part.startswith(".") and part not in (".", "..") for part in name.split("/")
    )


def as_text(name: str) -> str:
    """The name as text that can be stored: bytes that are no UTF-8 become backslash escapes, one by one."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
