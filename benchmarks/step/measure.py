"""Programs timed in turns, so that what else the machine does falls on all of them alike."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.step.program import Program
from benchmarks.step.worker import OutOfMemory, ProgramFailed, Worker


@dataclass(frozen=True)
class Result:
    """What was seen of a program; `failure` says why there are no rounds. Rounds are seconds a call of each part."""

    program: Program
    facts: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, float]] = field(default_factory=list)
    peak_bytes: int | None = None
    failure: str = ""
    group: int = 0  # programs of one batch and group were timed in turns


class Progress:
    """Says what is being done and how long all of it will still take, from the mean of what was done."""

    def __init__(self, todo: dict[str, int], expected: dict[str, float]):
        """`todo`: how many pieces of each kind of work; `expected`: seconds of one, where known before."""
        self._todo, self._seconds = dict(todo), {kind: [seconds] for kind, seconds in expected.items()}
        self._began = time.monotonic()

    @contextlib.contextmanager
    def doing(self, kind: str, what: str) -> Iterator[None]:
        """One piece of work."""
        left = None
        if all(self._seconds.get(kind) for kind, count in self._todo.items() if count):
            left = sum(n * sum(self._seconds[k]) / len(self._seconds[k]) for k, n in self._todo.items())
        about = "" if left is None else f", about {left:.0f} s left"
        began = time.monotonic()
        print(f"[{began - self._began:5.0f} s{about}] {kind} {what}", flush=True)
        yield
        self._todo[kind] -= 1
        self._seconds.setdefault(kind, []).append(time.monotonic() - began)


def measure(
    programs: list[Program], rounds: int, start: Callable[[Program], Worker], progress: Progress
) -> list[Result]:
    """Compiles the programs and times them in turns; those of one batch, as they share the device's memory.

    A program that does not fit beside the others is timed when they have ended; one that does not fit alone has a
    result that says so. A TPU belongs to one process at a time: there, each is alone.
    """
    results: dict[Program, Result] = {}
    waiting, group = list(programs), 0
    while waiting:
        running, later = {}, []
        for program in waiting:
            if any(worker.facts["platform"] == "tpu" for worker in running.values()):
                later.append(program)
                continue
            with progress.doing("compile", str(program)):
                try:
                    running[program] = start(program)
                except OutOfMemory as error:
                    if running:
                        later.append(program)
                    else:
                        results[program] = Result(program, failure=str(error))
                except ProgramFailed as error:
                    results[program] = Result(program, failure=str(error))
        results |= _take_turns(running, rounds, group, progress)
        waiting, group = later, group + 1
    return [results[program] for program in programs]


def _take_turns(running: dict[Program, Worker], rounds: int, group: int, progress: Progress) -> dict[Program, Result]:
    timed, results = {program: [] for program in running}, {}
    for index in range(rounds + 1):  # the last one ends them
        for program in [p for p in running if p not in results]:
            worker = running[program]
            try:
                if index < rounds:
                    with progress.doing("round", f"{index + 1} of {rounds}: {program}"):
                        timed[program].append(worker.round())
                else:
                    results[program] = Result(program, worker.facts, timed[program], worker.finish(), group=group)
            except ProgramFailed as error:
                results[program] = Result(program, worker.facts, failure=str(error), group=group)
    return results
