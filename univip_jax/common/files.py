"""Paths as users type them, files that are seen whole or not at all, their digests, and folders with one owner."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from univip_jax.common import buckets, objects
from univip_jax.common.errors import Misuse, TransientError, UserError
from univip_jax.common.lease import leased

NO_HOME = "/nonexistent"  # the home folder of a user who has none
LOCK = "lock"  # in a folder that a process holds: its host and process id
_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})", re.ASCII)  # as os.path.expandvars has it


def expand(path: str, *, any_bytes: bool = False) -> str:
    """The path with `~`, `~USER`, `$NAME` and `${NAME}` replaced, also where no shell has done it.

    A variable without a value stays where a path of that very name exists, as `$RECYCLE.BIN`.

    Args:
        any_bytes: the path need not be UTF-8. TensorFlow and TensorStore open no other.

    Raises Misuse: a variable has no value, there is no such home folder, or a bucket that `buckets.checked` refuses.
    """
    if not any_bytes and not path.isascii() and (readable := path.encode(errors="replace").decode()) != path:
        raise Misuse(f"{readable} is not UTF-8: rename it")

    def value(match: re.Match) -> str:
        if found := os.environ.get(name := match[1].strip("{}")):
            return found
        end = path.find("/", match.end())
        here = os.path.expanduser(os.path.expandvars(path if end < 0 else path[:end]))
        if os.path.lexists(here) or os.path.lexists(here.rpartition(":")[0]):  # VOC2007:trainval
            return match[0]
        raise Misuse(f"{path}: the variable {name} has no value: export {name}=..., or write the path out")

    plain = _VARIABLE.sub(value, path)
    if "://" in plain:
        return buckets.checked(plain)
    expanded = os.path.expanduser(plain)
    if plain.startswith("~") and expanded.startswith(("~", NO_HOME)) and not os.path.lexists(expanded):
        home = plain.partition("/")[0]
        cause = "HOME is not set" if home == "~" else f"{home[1:]} is no user of this machine"
        raise Misuse(f"{path}: {cause}: write the path out, or ./{plain} for a folder of that name")
    return expanded


def at(path: str | Path) -> Path:
    """The path of a folder or file; for the address of a bucket one with the same methods, which `open()` refuses."""
    if buckets.is_bucket(path):
        return buckets.open_address(path)
    return Path(path)


def read_bytes(path: str | Path, start: int = 0, end: int | None = None) -> bytes:
    """A file's bytes from `start` up to `end`; those of a bucket by one request.

    Raises OSError; UserError and TransientError for a bucket.
    """
    if buckets.is_bucket(path):
        return objects.read(at(path), start or None, end)
    if end is None:
        return Path(path).read_bytes()[start:]
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(end - start)


@contextmanager
def on_disk(path: Path) -> Iterator[Path]:
    """The file on a disk, for libraries that open no other: itself, or a copy of a bucket's for as long as the block.

    Raises FileNotFoundError; UserError and TransientError for a bucket.
    """
    if not buckets.is_bucket(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="univip_jax-") as folder:
        copy = Path(folder) / path.name
        path.fs.get_file(str(path), str(copy))
        yield copy


def on_this_machine(folder: Path) -> Path:
    """The folder, or the one that stands for a bucket's folder here, see `buckets.near`."""
    return buckets.near(folder) if buckets.is_bucket(folder) else folder


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """An empty file with a name of its own next to `path`; removed at the end. For a bucket it lies on this machine.

    Its writer holds a lock (flock) on it for as long as the process lives: without a lock it is a left-over.

    Raises UserError: it cannot be written (disk full, no permission), or the block raised an OSError.
    """
    name = f"{path.name}.{uuid.uuid4().hex}.tmp"
    tmp = Path(tempfile.gettempdir()) / name if buckets.is_bucket(path) else path.with_name(name)
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
        if buckets.is_bucket(path):
            buckets.put(path, tmp)
        else:
            os.replace(tmp, path)


def remove_tree(folder: Path) -> None:
    """Removes a folder with all that is in it, where there is one."""
    if buckets.is_bucket(folder):
        with contextlib.suppress(FileNotFoundError):
            folder.fs.rm(str(folder), recursive=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def write_whole(path: Path, contents: str | bytes, *, sync: bool = False) -> None:
    """Writes a file that is seen whole or as it was before.

    Args:
        sync: wait until the contents are on the disk: slow, but then they survive a power failure.

    Raises UserError: it cannot be written.
    """
    contents = contents.encode() if isinstance(contents, str) else contents
    if buckets.is_bucket(path):
        buckets.put(path, contents)
        return
    with appearing(path) as tmp, open(tmp, "wb") as file:
        file.write(contents)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def sha256_of(path: Path | str) -> str:
    """Sha256 (hex) of a file's bytes."""
    with at(path).open("rb") as file:
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


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes the folder, and holds it against other processes until the block or this process ends.

    The lock (flock) is on the file `lock` in it. It dies with its holder, however that ends. On a file system without
    locks, or where the file cannot be opened, the block runs without one. A folder that was made here and stays empty
    is removed. In a bucket the lock is a lease, see `leased`.

    Raises:
        TransientError: at once, where another process holds the folder. One that crashed on another host may seem to
            hold it until the file server has noticed.
        UserError: the folder cannot be made.
    """
    if buckets.is_bucket(folder):
        with leased(folder, LOCK):
            yield
        return
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    descriptor = _take(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()
            os.close(descriptor)
        with contextlib.suppress(OSError):  # the first that is not empty
            for place in made:
                place.rmdir()


def _take(folder: Path) -> int | None:
    """The descriptor that holds the lock, which no child inherits; None where the file cannot be opened."""
    path = folder / LOCK
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}): choose another folder") from error
        descriptor = None
        for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):  # another user's left-over is still good for a lock
            with contextlib.suppress(OSError):
                descriptor = os.open(path, flags, 0o666)
                break
        if descriptor is None:
            return None
        if lock(descriptor, fcntl.LOCK_EX) is False:
            holder = os.read(descriptor, 1000).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise TransientError(
                f"{folder} is in use: {holder} works on it; wait for its end, stop it, or choose another folder"
            )
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                with contextlib.suppress(OSError):  # disk full, or another user's file: only the message says less
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return descriptor
        os.close(descriptor)  # its holder removed it meanwhile
