"""A bucket's folder with one owner: a lease, because object stores have no locks that die with their holder.

The lease `lock-N` is an object that its holder writes anew every 10 s. One that stays the same for 60 s, or whose
holder was a process of this machine that is gone, is followed by `lock-N+1` of whoever wants the folder, and then
removed. An object is created under the condition that there is none (GCS: generation 0; S3: If-None-Match), so of
several that want it one gets it. The highest number holds.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from univip_jax.common.errors import TransientError, UserError

RENEWED, LOST = 10.0, 60.0  # s


class _Leases(NamedTuple):
    """Those of a bucket's folder, and who asks for one."""

    folder: Any
    name: str
    owner: dict[str, Any]

    def path(self, number: int) -> Any:
        return self.folder / f"{self.name}-{number}"

    def numbers(self) -> list[int]:
        """Of those that exist, the holder's last."""
        found = (path.name.rpartition("-")[2] for path in self.folder.glob(f"{self.name}-*"))
        return sorted(int(number) for number in found if number.isdecimal())

    def read(self, number: int) -> dict[str, Any]:
        """What its holder says; nothing where it has just been removed."""
        try:
            return dict(json.loads(self.path(number).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return {}

    def write(self, number: int, beat: int, mode: str = "overwrite") -> None:
        """Raises FileExistsError for the mode `create` where it exists."""
        path = self.path(number)
        path.fs.pipe_file(str(path), json.dumps({**self.owner, "beat": beat}).encode(), mode=mode)


@contextmanager
def leased(folder: Any, name: str) -> Iterator[None]:
    """Holds a bucket's folder against other processes by an object `name`-N in it, until the block ends.

    A process that loses its lease, because it could not renew it for too long, ends at once with code 75.

    Raises:
        TransientError: a process that lives holds it, or the bucket cannot be reached.
        UserError: there is no such bucket, or no right.
    """
    owner = {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid()), "token": uuid.uuid4().hex}
    leases = _Leases(folder, name, owner)
    number, done = _take(leases), threading.Event()

    def renew() -> None:
        beat = 0
        while not done.wait(RENEWED):
            beat += 1
            try:
                if leases.numbers()[-1:] > [number]:
                    print(f"error: another process has taken {folder} over, this one ends", file=sys.stderr, flush=True)
                    os._exit(TransientError.exit_code)
                leases.write(number, beat)
            except UserError:  # at the next time; who finds it the same for too long takes the folder
                continue

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        try:
            leases.path(number).unlink(missing_ok=True)
        except UserError as error:
            print(f"the lease {leases.path(number)} stays for {LOST:g} s: {error}", file=sys.stderr)


def _take(leases: _Leases) -> int:
    """The number of the lease that is held from now on."""
    while True:
        numbers = leases.numbers()
        if numbers:
            _wait_for_end(leases, numbers[-1])
        mine = max(numbers, default=0) + 1
        try:
            leases.write(mine, 0, "create")
        except FileExistsError:
            if not leases.owner.items() <= leases.read(mine).items():  # another was faster
                continue
            # The answer to an earlier attempt at this write was lost.
        for number in numbers:
            leases.path(number).unlink(missing_ok=True)
        return mine


def _wait_for_end(leases: _Leases, number: int) -> None:
    """Returns when the holder of a lease is gone; raises TransientError where it lives."""
    first = leases.read(number)
    if first.get("host") == leases.owner["host"]:
        if _lives(first):
            raise _in_use(leases, first)
        return
    if first:
        print(f"{leases.folder} may be in use by {_named(first)}: waiting {LOST:g} s for a sign", flush=True)
    end = time.monotonic() + LOST
    while first and time.monotonic() < end:
        time.sleep(RENEWED / 5)
        found = leases.read(number)
        if found and found != first:
            raise _in_use(leases, found)
        first = found


def _host() -> str:
    """The machine and its boot: a process id means nothing on another, or after a restart."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        # In a container, the first process is another one each time.
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def _lives(holder: dict[str, Any]) -> bool:
    """Whether a holder on this machine is still that process, and not another one of its number."""
    try:
        pid = int(holder["pid"])
        os.kill(pid, 0)
    except (KeyError, ValueError, TypeError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return _started(pid) == holder.get("started")


def _started(pid: int) -> str:
    """When a process began, in ticks since the boot; empty where it is dead, or the system does not say it so."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *facts = file.read().rpartition(")")[2].split()
        return "" if state in "ZX" else facts[18]  # dead, but nobody has waited for it
    except (OSError, IndexError):
        return ""


def _named(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid')} on {str(holder.get('host')).partition(' ')[0]}"


def _in_use(leases: _Leases, holder: dict[str, Any]) -> TransientError:
    return TransientError(
        f"{leases.folder} is in use: {_named(holder)} works on it; wait for its end, stop it, or choose another folder"
    )
