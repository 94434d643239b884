"""Ends a process that stands still, with the stacks of its threads: a dead loader, a hung collective.

A small process of its own, since none of these can be told from the inside: a thread of Python does not run while
another holds the interpreter, and nothing runs while the process is stopped. This file is also that process's program.
"""

import contextlib
import faulthandler
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from collections import deque
from typing import Any

_FACTOR = 10  # a step may take so many times the median, and what is no step so many times `seconds`
_REMEMBERED = 100  # steps that the median is of
_DUMP_SECONDS = 10  # for the process to write its stacks, before it is killed


class Watchdog:
    """Within its `with`, the process is ended if no step ends within max(10 x the median step, `seconds`).

    It ends by SIGABRT, on which Python's fault handler writes all stacks to stderr, and by SIGKILL if that has no
    effect: a non-zero exit for whoever restarts it.
    """

    def __init__(self, seconds: float):
        """0: no watchdog."""
        self._seconds = seconds
        self._steps: deque[float] = deque(maxlen=_REMEMBERED)
        self._process: subprocess.Popen | None = None
        self._last = time.monotonic()

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            if not faulthandler.is_enabled():
                faulthandler.enable(sys.__stderr__)
            command = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
            # A session of its own: Ctrl-C and signals to the process group are not for it.
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
            os.set_blocking(self._process.stdin.fileno(), False)
            self.pause()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._process:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()
            self._process = None

    def step(self) -> None:
        """A step has ended."""
        now = time.monotonic()
        self._steps.append(now - self._last)
        self._last = now
        self._allow(max(_FACTOR * statistics.median(self._steps), self._seconds))

    def pause(self) -> None:
        """What comes now is no step, as compiling, saving or evaluating, and may take ten times as long."""
        self._allow(_FACTOR * self._seconds)

    def resume(self) -> None:
        """Steps follow."""
        self._last = time.monotonic()
        self._allow(max(_FACTOR * statistics.median(self._steps or [0.0]), self._seconds))

    def _allow(self, seconds: float) -> None:
        if self._process is None:
            return
        try:
            os.write(self._process.stdin.fileno(), f"{seconds:.3f}\n".encode())
        except BlockingIOError:
            pass  # it is stopped: better to go on unwatched than to wait for it
        except BrokenPipeError:
            print("the watchdog has died; the run goes on without it", file=sys.stderr)
            self._process = None


def _watch(pid: int) -> None:
    """Reads how many seconds each next line may take, until the end of the file: the watched process is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of a scheduler that ends all: the watched process may yet save
    allowed, waited, bitten = float("inf"), 0.0, False
    tick = 0.25  # s; ticks are counted, so that the time in which the whole machine sleeps does not
    while True:
        if select.select([0], [], [], tick)[0]:
            lines = os.read(0, 1 << 16).split()
            if not lines:
                return
            if not bitten:
                allowed, waited = float(lines[-1]), 0.0
        else:
            waited += tick
        if not bitten and waited > allowed:
            print(f"no step for {waited:.0f} s: process {pid} is ended; its stacks follow", file=sys.stderr, flush=True)
            os.kill(pid, signal.SIGABRT)
            allowed, waited, bitten = _DUMP_SECONDS, 0.0, True
        elif bitten and waited > allowed:
            print(f"process {pid} does not answer, being stopped: killed", file=sys.stderr, flush=True)
            os.kill(pid, signal.SIGKILL)
            return


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
