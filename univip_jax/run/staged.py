"""Checkpoints as folders of a bucket: which of them count, and those of S3, which Orbax neither reads nor writes.

A checkpoint in a bucket counts while it holds `commit_success.txt`, which Orbax writes last, also into a folder on a
disk. So that object is put last and removed first: what an interruption leaves counts for nothing.
"""

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from univip_jax.common import buckets
from univip_jax.common.errors import UserError

COMMITTED = "commit_success.txt"  # Orbax's name
_PATIENCE = 60.0  # s for what is under way, at the end of a run that has failed


@dataclass
class Retention:
    """Which checkpoints stay: the newest ones, each whose step is a multiple of `every`, and `best`. Orbax's policy."""

    newest: int
    every: int = 0  # steps; 0: none
    best: int | None = None  # a step, set by evaluations

    def stay(self, steps: Sequence[int]) -> list[bool]:
        """For each step, oldest first."""
        stay = {*steps[-self.newest :], self.best}
        return [step in stay or bool(self.every and step % self.every == 0) for step in steps]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """As Orbax asks."""
        return self.stay([checkpoint.step for checkpoint in checkpoints])


def committed(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder that are whole, oldest first."""
    if buckets.is_bucket(folder):
        names = [path.parent.name for path in folder.glob(f"*/{COMMITTED}")]
    else:  # renamed when it is whole
        names = [path.name for path in folder.glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def clean(folder: Path) -> None:
    """Removes what interrupted saves and removals left in a bucket's folder of checkpoints."""
    root = str(folder).partition("://")[2] + "/"
    names = [path.removeprefix(root).split("/") for path in _objects(folder)]
    whole = {first for first, *rest in names if rest == [COMMITTED]}
    for name in {first for first, *_ in names if first.isdecimal()} - whole:
        remove(folder / name)


def move(source: Path, target: Path) -> None:
    """Renames a checkpoint. In a bucket an interruption leaves it where it was, and a part of it at `target`."""
    if not buckets.is_bucket(source):
        source.rename(target)
        return
    for path in _objects(source):
        source.fs.cp_file(path, str(target) + path.removeprefix(str(source).partition("://")[2]))
    remove(source)


def remove(checkpoint: Path) -> None:
    """Removes a checkpoint from a bucket."""
    (checkpoint / COMMITTED).unlink(missing_ok=True)
    if paths := _objects(checkpoint):
        checkpoint.fs.rm(paths)


def _objects(folder: Path) -> list[str]:
    """All in a bucket's folder, without `gs://`; of a checkpoint, what vouches for it last."""
    return sorted(folder.fs.find(str(folder)), key=lambda path: path.endswith(f"/{COMMITTED}"))


def limited(close: Callable[[], None]) -> None:
    """Calls it after a failure, whose error counts, and waits for at most a minute.

    TensorStore tries for a quarter of an hour to reach a bucket that is gone; Orbax has no option to bound that.
    """

    def call() -> None:
        with contextlib.suppress(Exception):
            close()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(_PATIENCE)


class Staged:
    """Checkpoints in a bucket's `folder` that Orbax writes to and reads from `local`, a folder of this machine.

    A thread puts what is written; a checkpoint lies in both for some time.
    """

    def __init__(self, folder: Path, keep: Retention | None):
        """None: for reading."""
        self._folder, self._keep = folder, keep
        if keep is None:  # while a training on this machine writes others
            self.local = Path(tempfile.mkdtemp(prefix="univip_jax-"))
        else:
            self.local = buckets.near(folder)
            shutil.rmtree(self.local, ignore_errors=True)
        self._thread = ThreadPoolExecutor(1)
        self._putting: Future[None] | None = None

    def fetch(self, step: int) -> None:
        """Brings a checkpoint to `local`, in place of an earlier one that was fetched."""
        place, source = self.local / str(step), self._folder / str(step)
        if place.exists():
            return
        for earlier in self.local.glob("[0-9]*"):
            shutil.rmtree(earlier)
        part = self.local / f"{step}.part"
        shutil.rmtree(part, ignore_errors=True)
        for path in _objects(source):
            name = path.removeprefix(str(source).partition("://")[2] + "/")
            target = part / name
            if name.startswith("/") or ".." in name.split("/"):
                raise UserError(f"{source} holds the object {name!r}, which leads out of a folder: remove it")
            target.parent.mkdir(parents=True, exist_ok=True)
            source.fs.get_file(path, str(target))
        if part.exists():
            part.rename(place)

    def forget(self, step: int) -> None:
        """Removes a checkpoint from `local`."""
        shutil.rmtree(self.local / str(step), ignore_errors=True)

    def put(self, step: int, written: Callable[[], None]) -> None:
        """Begins to put a checkpoint, as soon as `written` returns, and then to remove those that need not stay."""
        self._putting = self._thread.submit(self._put, step, written)

    def _put(self, step: int, written: Callable[[], None]) -> None:
        written()
        source, target = self.local / str(step), self._folder / str(step)
        remove(target)
        files = [path for path in source.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path == source / COMMITTED):
            buckets.put(target / str(path.relative_to(source)), path)
        steps = committed(self._folder)
        for old, stays in zip(steps, self._keep.stay(steps), strict=True):
            if not stays:
                remove(self._folder / str(old))

    def check(self) -> None:
        """Raises what the newest `put` has raised by now."""
        if self._putting and self._putting.done():
            self._putting.result()

    def wait(self) -> None:
        """Returns when the newest `put` has ended; raises what it raised."""
        if self._putting:
            self._putting.result()

    def close(self) -> None:
        """As `wait`, and the end."""
        with contextlib.ExitStack() as end:
            if self._keep is None:
                end.callback(shutil.rmtree, self.local, ignore_errors=True)
            end.callback(self._thread.shutdown)
            self.wait()
