"""Several processes on one folder: files that appear whole or not at all, and what the killed ones left behind.

A temporary file is locked (flock) by its writer for as long as that process lives, on whatever machine: one that is
not locked belongs to nobody any more. The folder itself is locked by the command that fills it. Where a file system
has no locks, left-over files stay and nothing keeps a second command away; the files that count are whole all the same.
"""

import fcntl
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from univip_jax.common.errors import UserError

_TMP_NAME = re.compile(r".+\.[0-9a-f]{32}\.tmp")


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """An empty file with a name of its own next to `path`, locked; removed at the end.

    Raises:
        UserError: it cannot be written (disk full, no permission), or the block raised an OSError.
    """
    tmp = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(tmp, "xb") as file:
            _lock(file.fileno(), fcntl.LOCK_EX)
            try:
                yield tmp
            finally:
                tmp.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): free space or rights, then run again") from error


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary file to be written under the name that is given; at the end it becomes `path`.

    Where the block raises, `path` stays as it was and nothing is left behind. Raises as `temporary` does.
    """
    with temporary(path) as tmp:
        yield tmp
        os.replace(tmp, path)


def write_whole(path: Path, contents: str | bytes) -> None:
    """Writes a file, through to the disk, so that it is seen whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with appearing(path) as tmp, open(tmp, "wb") as file:
        file.write(contents.encode() if isinstance(contents, str) else contents)
        file.flush()
        os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """Sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path) -> None:
    """Removes temporary files whose writer is dead; those of processes at work stay."""
    for name in filter(_TMP_NAME.fullmatch, os.listdir(folder)):
        try:
            with open(folder / name, "rb+") as file:
                if _lock(file.fileno(), fcntl.LOCK_EX):
                    os.unlink(folder / name)
        except FileNotFoundError:  # its writer has just finished
            continue


@contextmanager
def kept(folder: Path, shared: bool) -> Iterator[None]:
    """Keeps the folder for this command, or for several that share it, until the block or the process ends.

    Raises:
        UserError: another command keeps the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _lock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX) is False:
            raise UserError(
                f"--out={folder}: another data_prep is at work on it: wait for its end, or give another --out "
                "(several may share the work with --task_index and --num_tasks)"
            )
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool | None:
    """True: locked now. False: another process has the lock. None: this file system has no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
