"""Keeps a run going on this machine: `python -m univip_jax.run.supervise [flags] -- python main.py ... --workdir=DIR`.

Starts the command, or several ranks of it, and starts it again when it dies: the command itself goes on from the
newest checkpoint in its --workdir. The exit code is 0 when the run is finished, or saved after a SIGTERM. Codes 1
and 2 are mistakes that a restart would repeat, and end it at once. Anything else, a signal or the 75 of what may be
gone at a second try, is tried again until --max_restarts restarts in a row have brought no progress: no checkpoint,
no features, no result (`kept`).

When a rank dies the others are killed at once, not asked by SIGTERM: that asks them to agree on a step and save it,
which they cannot without the dead one, and all that they hold is in the checkpoint or is computed again. The rank that
died first is the cause: the others may die of its death with any code.
"""

import contextlib
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from math import inf
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector

from absl import app, flags

from univip_jax.common.cli import fail, parse_flags
from univip_jax.run.ranks import Rank

NAME = "univip_jax.run.supervise"
USER_ERRORS = (1, 2)
LONGEST_PAUSE = 300.0  # s
_SIGNALS = {int(signum): signum.name for signum in signal.Signals}
_EXAMPLE = "python -m univip_jax.run.supervise -- python main.py --config=configs/coco.py --workdir=runs/coco"


@dataclass(frozen=True)
class Policy:
    """How many ranks there are, and how patient to be with them."""

    num_processes: int
    max_restarts: int  # in a row that brought no progress
    backoff: float  # s before the first restart in a row; each further one waits twice as long
    grace: float  # s that the ranks have to save after a SIGTERM
    sigterm_code: int  # our exit code when they have


class Supervisor:
    """The ranks of one command, from the first start to the exit code."""

    def __init__(self, command: Sequence[str], run: Path, policy: Policy):
        """`run` is the folder whose checkpoints tell of progress. Takes over SIGCHLD, SIGTERM and SIGINT."""
        self._command, self._run, self._policy = command, run, policy
        self._ranks: list[Rank] = []
        self._signal: int | None = None  # the one that was passed on: then nothing is started any more
        self._kill_at = inf
        self._selector = DefaultSelector()
        # Signals arrive as bytes that the one loop reads, so none can come between two of its lines.
        self._inbox, self._outbox = socket.socketpair()
        self._outbox.setblocking(False)
        self._selector.register(self._inbox, EVENT_READ, self._take_signals)
        signal.set_wakeup_fd(self._outbox.fileno())
        for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: None)

    def supervise(self) -> int:
        """Returns our exit code when the run is finished, stopped or given up."""
        restarts, longest = 0, self._policy.max_restarts
        while True:
            before = kept(self._run)
            cause = self._run_ranks()
            if cause is None or self._signal is not None:
                return self._exit_code(cause)
            if cause.code in USER_ERRORS:
                _say(f"exit code {cause.code} is a mistake that a restart would repeat: the run is ended")
                return cause.code
            if kept(self._run) - before:
                restarts = 0
            if restarts >= longest:
                _say(
                    f"given up after {restarts} restarts in a row without progress in {self._run}: put right "
                    "what ends the run, then the same command goes on"
                )
                return self._exit_code(cause)
            pause = min(self._policy.backoff * 2**restarts, LONGEST_PAUSE)
            restarts += 1
            _say(f"restart {restarts} of {longest} since the last progress, in {pause:g} s")
            end = time.monotonic() + pause
            while self._signal is None and time.monotonic() < end:
                self._wait(end)
            if self._signal is not None:
                return self._exit_code(cause)

    def _run_ranks(self) -> Rank | None:
        """Starts the ranks and waits until all have ended; returns the first that did not end with 0, if any."""
        count = self._policy.num_processes
        selector = self._selector if count > 1 else None
        self._ranks = [Rank(i, [*self._command, *place], selector) for i, place in enumerate(_places(count))]
        cause, died_at = None, 0.0
        while running := [rank for rank in self._ranks if rank.code is None]:
            self._wait(self._kill_at)
            ended = [rank for rank in running if rank.has_ended()]
            # Of deaths that were seen together, one that is worth a restart is the cause: the others follow from it.
            for rank in sorted(ended, key=lambda rank: rank.code in USER_ERRORS):
                if rank.code != 0 and cause is None:
                    cause, died_at = rank, time.monotonic()
                    _say(f"{_death(rank)}; newest checkpoint: {_named(newest_step(self._run))}")
                    self._kill()
            if time.monotonic() >= self._kill_at:
                _say(f"not all ranks have ended {self._policy.grace:g} s after the signal: killed")
                self._kill()
        if cause is not None and count > 1:
            _say(f"all ranks have ended, {time.monotonic() - died_at:.2f} s after the first")
        return cause

    def _wait(self, until: float) -> None:
        """Passes on output and signals as they come; returns after some, a death among them, or at the given time."""
        timeout = None if until == inf else max(0.0, until - time.monotonic())
        for key, _ in self._selector.select(timeout):
            key.data()

    def _take_signals(self) -> None:
        for signum in self._inbox.recv(4096):
            if signum == signal.SIGCHLD:
                continue
            if self._signal is not None:
                _say(f"{_SIGNALS[signum]}, the second signal: the ranks are killed")
                self._kill()
                continue
            grace = self._policy.grace
            _say(f"{_SIGNALS[signum]}: passed on; the ranks have {grace:g} s to end, and a second signal kills them")
            self._signal, self._kill_at = signum, time.monotonic() + grace
            for rank in self._ranks:
                rank.send(signum)

    def _kill(self) -> None:
        self._kill_at = inf
        for rank in self._ranks:
            rank.kill()

    def _exit_code(self, cause: Rank | None) -> int:
        """As a shell has it: 128 and the signal, 130 after Ctrl-C."""
        if self._signal == signal.SIGINT:
            return 130
        if cause is None:
            return self._policy.sigterm_code if self._signal else 0
        return cause.code if cause.code > 0 else 128 - cause.code


def kept(run: Path) -> set[tuple[Path, int]]:
    """What a restart goes on from: checkpoints, each with its time, and features and results, each with its size.

    Those of evaluations are one or two folders further down: a sweep has one for each step, and a grid its own.
    """
    names = ("checkpoints/*", "features/*.rows", "results.json")
    found = set()
    for pattern in (depth + name for depth in ("", "*/", "*/*/") for name in names):
        with contextlib.suppress(OSError):  # an older checkpoint has just been removed, or the disk errs
            for place in run.glob(pattern):
                if place.parent.name != "checkpoints":
                    found.add((place, place.stat().st_size))
                elif place.name.isdecimal():
                    found.add((place, place.stat().st_mtime_ns))
    return found


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint in the run's folder; -1 where there is none."""
    # Orbax's committed checkpoints, without importing it: folders whose names are numbers.
    try:
        return max((int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal()), default=-1)
    except OSError:
        return -1


def workdir(command: Sequence[str]) -> Path | None:
    """The value of the command's --workdir, as --workdir=X or --workdir X; the last counts, as it does for absl."""
    found = None
    for flag, following in zip(command, [*command[1:], None], strict=True):
        name, equals, value = flag.partition("=")
        if name in ("--workdir", "-workdir"):
            found = value if equals else following
    return Path(found) if found else None


def _places(count: int) -> list[list[str]]:
    """The flags by which each of `count` ranks finds the others; none for a single one."""
    if count == 1:
        return [[]]
    # A port that is free now: that of the last start may still be taken.
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = ["--distributed", f"--coordinator_address={address}", f"--num_processes={count}"]
    return [[*flags, f"--process_id={rank}"] for rank in range(count)]


def _death(rank: Rank) -> str:
    signum = -rank.code
    how = f"was ended by {_SIGNALS.get(signum, signum)}" if signum > 0 else f"ended with exit code {rank.code}"
    return f"rank {rank.index} {how} after {timedelta(seconds=round(rank.seconds))}"


def _named(step: int) -> str:
    return f"step {step}" if step >= 0 else "none"


def _say(message: str) -> None:
    print(f"supervise: {message}", file=sys.stderr, flush=True)


def _parse(argv: list[str]) -> list[str]:
    """Our flags, which end at `--`; returns the command behind it."""
    if "--" not in argv and not any(argument.startswith("--help") for argument in argv):
        fail(f"python -m {NAME}", f"-- and the command are missing, as in: {_EXAMPLE}", 2)
    end = argv.index("--") if "--" in argv else len(argv)
    command = argv[end + 1 :]

    def check() -> None:
        if not command:
            raise flags.Error(f"the command is missing, as in: {_EXAMPLE}")
        if not shutil.which(command[0]):
            raise flags.Error(f"{command[0]} is no program that can be run")
        if not workdir(command):
            raise flags.Error(f"the command has no --workdir, whose checkpoints tell of progress, as in: {_EXAMPLE}")

    parse_flags(NAME, (), check)(argv[:end])
    return command


def _main(command: list[str]) -> int:
    policy = Policy(**{field.name: flags.FLAGS[field.name].value for field in fields(Policy)})
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # without a reader of our output we end, and the ranks with us
    return Supervisor(command, workdir(command), policy).supervise()


if __name__ == "__main__":
    flags.DEFINE_integer("num_processes", 1, "Ranks on this machine; one drives all of its GPUs.", lower_bound=1)
    flags.DEFINE_integer("max_restarts", 3, "Restarts in a row without progress; 0: none at all.", lower_bound=0)
    flags.DEFINE_float("backoff", 1.0, "Seconds before a restart; doubles with each of them in a row.", lower_bound=0.0)
    flags.DEFINE_float("grace", 120.0, "Seconds that the ranks have to save after SIGTERM.", lower_bound=0.0)
    flags.DEFINE_integer(
        "sigterm_code",
        0,
        "Exit code when the ranks have saved after a SIGTERM; 143 for a scheduler to which 0 is a finished run.",
        lower_bound=0,
        upper_bound=255,
    )
    app.run(_main, flags_parser=_parse)
