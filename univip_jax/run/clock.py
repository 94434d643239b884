"""The clock of a run: a ledger of where its wall time went, and an alarm that ends a process which stands still.

Only the standard library and `common`: `main.py` imports this file first, so that `STARTED` is when the process began.
"""

import contextlib
import faulthandler
import json
import signal
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from univip_jax.common import buckets
from univip_jax.common.files import write_whole

STARTED = time.time()
LEDGER = "goodput.json"

# Of an attempt: `start` is imports and opening, `data` waiting for a batch, `save` the stall of a save. `lost` is the
# training that an interruption undid, `down` the time from the last report of an attempt to the start of the next.
KINDS = ("train", "start", "compile", "restore", "data", "save", "evaluate", "lost", "down")
_STEPPING = ("train", "data")

_PATIENCE = 10  # a step may take so many times the median step, and anything else so many times `stall_seconds`
_PAUSE = 10.0  # s between two writes of a file that grows, in a bucket
_REMEMBERED = 100  # steps of which the median is taken


class Alarm:
    """Ends the process by SIGALRM, with the stacks of its threads on stderr, unless it is set again in time.

    The handler is C code of Python's fault handler: it needs neither the interpreter nor its lock, so it works in a
    dead lock and inside a library too. A process that is stopped (SIGSTOP) is not ended.
    """

    def __init__(self, seconds: float):
        """0: no alarm."""
        self._seconds = seconds

    def __enter__(self) -> "Alarm":
        if self._seconds:
            # Chained to the default action, which ends the process.
            faulthandler.register(signal.SIGALRM, file=sys.__stderr__, chain=True)
            self.set(_PATIENCE * self._seconds)
        return self

    def __exit__(self, *_: object) -> None:
        if self._seconds:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.unregister(signal.SIGALRM)

    def set(self, seconds: float) -> None:
        """The process may take so long from now."""
        if self._seconds:
            signal.setitimer(signal.ITIMER_REAL, seconds)


class Puts:
    """When a file that grows is written whole again: in a bucket every 10 s at most, on a disk each time.

    Google takes one write a second of the same object.
    """

    def __init__(self, path: object):
        self._pause, self._next = _PAUSE if buckets.is_bucket(path) else 0.0, 0.0

    def due(self, now: bool) -> bool:
        """Whether to write it; `now`: whenever the last time was."""
        if not now and time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._pause
        return True


class Clock:
    """The ledger of a run, kept in its folder: each second since the first attempt began is in one of `KINDS`.

    Within its `with` the alarm is set: a step may take max(10 x the median step, `stall_seconds`), and what is no step
    10 x `stall_seconds`.
    """

    def __init__(self, folder: Path | None, stall_seconds: float = 0.0):
        """Continues the ledger in `folder`. None keeps none, as all processes but the first do."""
        self._path, self._puts = folder / LEDGER if folder else None, Puts(folder)
        self._seconds, self.attempts, updated = dict.fromkeys(KINDS, 0.0), 1, STARTED
        if self._path and self._path.exists():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # cut off by a full disk: begins anew
                before = json.loads(self._path.read_text())
                updated, self.attempts = float(before["updated"]), int(before["attempts"]) + 1
                self._seconds = {kind: float(before["seconds"][kind]) for kind in KINDS}
        # Two trainings of one process share `STARTED`.
        begun = max(STARTED, updated)
        self._seconds["down"] += begun - updated
        self._mark, self._kind = begun, "start"
        self._alarm, self._stall_seconds = Alarm(stall_seconds), stall_seconds
        self._steps: deque[float] = deque(maxlen=_REMEMBERED)
        self._last_step = time.monotonic()

    def __enter__(self) -> "Clock":
        self._alarm.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._alarm.__exit__()

    @contextlib.contextmanager
    def spend(self, kind: str) -> Iterator[None]:
        """What is done within belongs to `kind`."""
        before = self._kind
        self._turn(kind)
        try:
            yield
        finally:
            self._turn(before)

    def train_from_now(self, trained: float) -> None:
        """What follows is training; the state that it starts from holds `trained` seconds of it."""
        self._turn("train")
        self._seconds["lost"] += max(0.0, self._seconds["train"] - trained)
        self._seconds["train"] = min(trained, self._seconds["train"])
        self.write()

    def step(self) -> None:
        """A step has ended."""
        now = time.monotonic()
        self._steps.append(now - self._last_step)
        self._expect_step(now)

    def stepping(self) -> float:
        """Seconds until now of steps and of waiting for their batches."""
        self._count()
        return sum(self._seconds[kind] for kind in _STEPPING)

    def write(self, *, now: bool = True) -> dict[str, float]:
        """Brings the file up to date; returns the seconds of each kind and the share of training, as metrics.

        Args:
          now: False leaves it to a later call where it is in a bucket and was written less than 10 s ago.
        """
        self._count()
        if self._path and self._puts.due(now):
            ledger = {"updated": self._mark, "attempts": self.attempts, "seconds": self._seconds}
            write_whole(self._path, json.dumps(ledger) + "\n")
        seconds = {f"goodput/{kind}_seconds": value for kind, value in self._seconds.items()}
        return {"goodput/share": self._seconds["train"] / max(1e-9, sum(self._seconds.values())), **seconds}

    def summary(self) -> str:
        """One line for people."""
        total = sum(self._seconds.values())
        shares = {kind: 100 * seconds / total for kind, seconds in self._seconds.items() if seconds}
        rest = sorted(((share, kind) for kind, share in shares.items() if kind != "train"), reverse=True)
        attempts = f"{self.attempts} attempt{'s' * (self.attempts > 1)}"
        return f"goodput   {shares.get('train', 0):.1f} % of {total:.0f} s in {attempts} was training; " + ", ".join(
            f"{kind} {share:.1f} %" for share, kind in rest
        )

    def _turn(self, kind: str) -> None:
        """From now on time belongs to `kind`, and the alarm has its patience."""
        self._count()
        before, self._kind = self._kind, kind
        if kind not in _STEPPING:
            self._alarm.set(_PATIENCE * self._stall_seconds)
        elif before not in _STEPPING:
            self._expect_step(time.monotonic())

    def _expect_step(self, now: float) -> None:
        self._last_step = now
        self._alarm.set(max(_PATIENCE * statistics.median(self._steps or [0.0]), self._stall_seconds))

    def _count(self) -> None:
        now = time.time()
        self._seconds[self._kind] += max(0.0, now - self._mark)
        self._mark = now
