"""What a bucket holds: listings with sizes, an object or a part of it by one request, many objects at once."""

import errno
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from univip_jax.common.errors import UserError

_MOST = 10_000_000  # objects, where gcsfs ends a listing


class Entry(NamedTuple):
    """An object as a listing tells it."""

    size: int  # bytes
    modified: float  # s since 1970


def entries(folder: Any, *, below: bool = False) -> dict[str, Entry]:
    """The objects in a bucket's folder by their names, from one listing; empty where there is no such folder.

    Args:
        below: also those in folders below, by their paths within the folder.

    Raises UserError: there is no such bucket, no right, or more objects than gcsfs lists; TransientError: it cannot be
    reached.
    """
    start = len(str(folder).rstrip("/").partition("://")[2]) + 1  # a whole bucket is gs://NAME/
    try:
        found = folder.fs.find(str(folder), detail=True).values() if below else folder.fs.ls(str(folder), detail=True)
    except FileNotFoundError:
        return {}
    if len(found) >= _MOST:
        raise UserError(f"{folder} holds {_MOST} objects or more, which are not listed at once: give folders below it")
    listed = {info["name"][start:]: info for info in found if info["type"] == "file"}
    times = {name: info.get("mtime") or info["LastModified"] for name, info in listed.items()}
    # A name with a slash at its end is what consoles show as an empty folder.
    return {
        name: Entry(info["size"], times[name].timestamp())
        for name, info in listed.items()
        if name and not name.endswith("/")
    }


def read(path: Any, start: int | None = None, end: int | None = None) -> bytes:
    """An object, or its bytes from `start` up to `end`, by one request; fewer where it ends before.

    Raises FileNotFoundError; UserError: no right; TransientError: it cannot be reached.
    """
    if end is not None and end <= (start or 0):
        return b""
    try:
        return path.fs.cat_file(str(path), start=start, end=end)
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    except Exception as error:
        if getattr(error, "code", None) == 416 or getattr(error, "errno", None) == errno.EINVAL:  # it ends before
            return b""
        raise


def read_all(paths: Sequence[Any]) -> list[bytes | None]:
    """Many objects, by requests at the same time; None for one that is not there. Raises as `read` does."""
    if not paths:
        return []
    found = paths[0].fs.cat_ranges([str(path) for path in paths], None, None, on_error="return")
    if failed := next((e for e in found if isinstance(e, Exception) and not isinstance(e, FileNotFoundError)), None):
        raise failed
    return [None if isinstance(contents, Exception) else contents for contents in found]
