"""Files that are seen whole or not at all, and their digests."""

import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from univip_jax.common.errors import UserError


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """An empty file with a name of its own next to `path`; removed at the end.

    Its writer holds a lock (flock) on it for as long as the process lives: without a lock it is a left-over.

    Raises UserError: it cannot be written (disk full, no permission), or the block raised an OSError.
    """
    tmp = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(tmp, "xb") as file:
            lock(file.fileno(), fcntl.LOCK_EX)
            try:
                yield tmp
            finally:
                tmp.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): free space or rights, then run again") from error


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary file for the block to write; at the end it becomes `path`.

    If the block raises, `path` stays as it was and nothing is left behind. Raises as `temporary` does.
    """
    with temporary(path) as tmp:
        yield tmp
        os.replace(tmp, path)


def write_whole(path: Path, contents: str | bytes, *, sync: bool = False) -> None:
    """Writes a file that is seen whole or as it was before.

    Args:
        sync: wait until the contents are on the disk: slow, but then they survive a power failure.

    Raises UserError: it cannot be written.
    """
    with appearing(path) as tmp, open(tmp, "wb") as file:
        file.write(contents.encode() if isinstance(contents, str) else contents)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def sha256_of(path: Path | str) -> str:
    """Sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock(descriptor: int, kind: int) -> bool | None:
    """Locks an open file without waiting; `kind` is `fcntl.LOCK_SH` or `LOCK_EX`.

    Returns:
        True: locked now. False: another process has the lock. None: this file system has no locks.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
