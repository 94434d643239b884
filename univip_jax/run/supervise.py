"""Restarts a command until its run is finished: `python -m univip_jax.run.supervise [flags] -- python main.py ...`.

The command resumes from the newest checkpoint in its --workdir. Exit codes 1 and 2 are mistakes that a restart would
repeat: they end the run. So do --max_restarts restarts in a row without progress. After any other code, or a signal,
the command starts again.
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from math import inf
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from univip_jax.common.buckets import is_bucket
from univip_jax.common.cli import parse_flags
from univip_jax.common.errors import Misuse, UserError
from univip_jax.common.files import at, expand

MISTAKES = (1, 2)  # exit codes of a `UserError` and of misused flags
LONGEST_PAUSE = 300.0  # s
_TICK = 0.05  # s between two looks at the command and at the signals
_EXAMPLE = "python -m univip_jax.run.supervise -- python main.py --config=configs/coco.py --workdir=runs/coco"
_FLAGS = (
    flags.DEFINE_integer("max_restarts", 3, "Restarts in a row without progress; 0: none.", lower_bound=0),
    flags.DEFINE_float("backoff", 1.0, "Seconds before a restart; doubles with each one in a row.", lower_bound=0.0),
    flags.DEFINE_float("grace", 120.0, "Seconds to save after SIGTERM or Ctrl-C, before SIGKILL.", lower_bound=0.0),
)


class Policy(NamedTuple):
    """The flags of the same names; times in seconds."""

    max_restarts: int
    backoff: float
    grace: float


def verdict(code: int, restarts: int, progressed: bool, policy: Policy) -> tuple[int, float, str]:
    """Decides what follows exit code `code`, or signal `-code`, after `restarts` restarts in a row without progress.

    Returns:
      The number of the restart, 0 for none; the seconds before it; and the reason.
    """
    if code in MISTAKES:
        return 0, 0.0, "no restart, which would repeat the mistake"
    restart, limit = 1 if progressed else restarts + 1, policy.max_restarts
    if restart > limit:
        return 0, 0.0, f"gave up after {limit} restarts without progress: fix the cause, then run the command again"
    pause = min(policy.backoff * 2.0 ** min(restart - 1, 99), LONGEST_PAUSE)
    return restart, pause, f"restart {restart} of {limit} without progress, in {pause:g} s"


def supervise(command: Sequence[str], folder: Path, policy: Policy) -> int:
    """Runs `command` until it is finished, stopped or given up. What it saves in `folder` is its progress.

    Takes over SIGTERM and SIGINT: the first is forwarded, and nothing restarts after it; a second one kills.

    Returns:
      The last exit code as a shell gives it: 128 and its number for a signal, 130 after SIGINT.
    """
    signals: list[int] = []
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda signum, _: signals.append(signum))
    restarts, before = 0, saved_work(folder)
    while True:
        start = time.monotonic()
        code = _run(command, signals, policy.grace)
        if code and not signals:
            after = saved_work(folder)
            restarts, pause, reason = verdict(code, restarts, bool(after - before), policy)
            before |= after
            end = f"exit code {code}" if code > 0 else f"signal {-code} ({signal.strsignal(-code)})"
            _say(f"{end} after {timedelta(seconds=round(time.monotonic() - start))}; {reason}")
            resume_at = time.monotonic() + pause
            while not signals and time.monotonic() < resume_at:
                time.sleep(_TICK)
        if signals[:1] == [signal.SIGINT]:
            return 130
        if not code or not restarts or signals:
            return code if code >= 0 else 128 - code


def _run(command: Sequence[str], signals: list[int], grace: float) -> int:
    """Runs the command once, and ends its children with it; returns its exit code, or minus the signal's number."""
    # A group of its own: Ctrl-C reaches it through us alone, and SIGKILL reaches its children. On Linux it asks the
    # kernel, before exec, to be killed when we are (PR_SET_PDEATHSIG); with no threads in here, but a bucket's client
    # that waits in the kernel, a preexec_fn is safe.
    ask = partial(ctypes.CDLL(None).prctl, 1, int(signal.SIGKILL)) if sys.platform == "linux" else None
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=ask)
    kill_at = inf
    while process.poll() is None:
        if signals and kill_at == inf:
            kill_at = time.monotonic() + grace
            _say(f"{signal.Signals(signals[0]).name} forwarded; SIGKILL after {grace:g} s, or at a second signal")
            process.send_signal(signals[0])
        if len(signals) > 1 or time.monotonic() >= kill_at:
            _say("SIGKILL: the command has not ended")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(_TICK)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # no child is left
        os.killpg(process.pid, signal.SIGKILL)
    return process.returncode


def saved_work(folder: Path) -> set[tuple[Path | str, int | str]]:
    """Checkpoints, each with its time; cached features and results, each with its size: what a restart builds on.

    Those of evaluations lie up to three folders further down: a sweep has one per step, and a grid its own.
    """
    if is_bucket(folder):
        return _saved_in_bucket(folder)
    found = set()
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        for name in ("checkpoints/*", "features/*.rows", "results.json"):
            with contextlib.suppress(OSError):  # an old checkpoint was just removed, or the disk fails
                for path in folder.glob(depth + name):
                    if path.parent.name != "checkpoints":
                        found.add((path, path.stat().st_size))
                    elif path.name.isdecimal():  # committed; Orbax would take seconds to import
                        found.add((path, path.stat().st_mtime_ns))
    return found


def _saved_in_bucket(folder: Path) -> set[tuple[str, int | str]]:
    """`saved_work` by one listing; none where the bucket fails: it is no progress that cannot be seen."""
    try:
        objects = folder.fs.find(str(folder), detail=True)
    except UserError as error:
        _say(f"progress cannot be seen: {error}")
        return set()
    vouches = re.compile(r".*/(checkpoints/\d+/commit_success\.txt|features/[^/]*\.rows|results\.json)")
    found = {path: facts for path, facts in objects.items() if vouches.fullmatch(path)}
    return {
        (path, str(facts.get("updated") or facts.get("LastModified")) if "/checkpoints/" in path else facts["size"])
        for path, facts in found.items()
    }


def _say(message: str) -> None:
    print(f"supervise: {message}", file=sys.stderr, flush=True)


def workdir(command: Sequence[str]) -> Path | None:
    """The value of the last --workdir=X of the command."""
    values = [flag.partition("=")[2] for flag in command if flag.startswith(("--workdir=", "-workdir="))]
    return at(expand(values[-1])) if values and values[-1] else None


def parse(argv: list[str]) -> list[str]:
    """Reads our flags, which end at `--`; returns the command behind it. Misuse is one line and exit code 2."""
    if "--" in argv:
        end = argv.index("--")
        ours, command = argv[:end], argv[end + 1 :]
    else:  # all are taken for the command's, but a call for help
        ours, command = [argv[0], *(flag for flag in argv if flag.startswith("--help"))], []

    def check() -> None:
        if not command:
            raise flags.Error(f"-- and the command are missing, as in: {_EXAMPLE}")
        if not shutil.which(command[0]):
            raise flags.Error(f"{command[0]} is no program that can be run")
        try:
            given = workdir(command)
        except Misuse as error:
            raise flags.Error(error) from error
        if not given:
            raise flags.Error(f"the command has no --workdir=DIR, which shows its progress, as in: {_EXAMPLE}")

    parse_flags("univip_jax.run.supervise", (), check)(ours)
    return command


if __name__ == "__main__":
    app.run(
        lambda command: supervise(command, workdir(command), Policy(*(flag.value for flag in _FLAGS))),
        flags_parser=parse,
    )
