"""Programs timed in turns, so that other load on the machine affects them alike."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.step.program import Program
from benchmarks.step.worker import OutOfMemory, ProgramFailed, Worker


@dataclass(frozen=True)
class Result:
    """Figures of a program; `failure` says why there are no rounds. Rounds: seconds per call of each part."""

    program: Program
    facts: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, float]] = field(default_factory=list)
    peak_bytes: int | None = None
    failure: str = ""
    group: int = 0  # programs of one batch and group took turns


def measure(programs: list[Program], rounds: int, start: Callable[[Program], Worker]) -> list[Result]:
    """Compiles the programs of one batch and times them in turns.

    A program that does not fit beside the others runs after them; one that does not fit alone has a result that says
    so. A TPU serves one process at a time: there, each program runs alone.
    """
    results: dict[Program, Result] = {}
    waiting, group = list(programs), 0
    while waiting:
        running, later = {}, []
        for program in waiting:
            if any(worker.facts["platform"] == "tpu" for worker in running.values()):
                later.append(program)
                continue
            _log(f"compile {program}")
            try:
                running[program] = start(program)
            except ProgramFailed as error:
                if running and isinstance(error, OutOfMemory):
                    later.append(program)
                else:
                    results[program] = Result(program, failure=str(error))
        results |= _take_turns(running, rounds, group)
        waiting, group = later, group + 1
    return [results[program] for program in programs]


def _take_turns(running: dict[Program, Worker], rounds: int, group: int) -> dict[Program, Result]:
    timed, results = {program: [] for program in running}, {}
    for index in range(rounds + 1):  # the last one ends the workers
        for program in [p for p in running if p not in results]:
            worker = running[program]
            try:
                if index < rounds:
                    _log(f"round {index + 1} of {rounds}: {program}")
                    timed[program].append(worker.round())
                else:
                    results[program] = Result(program, worker.facts, timed[program], worker.finish(), group=group)
            except ProgramFailed as error:
                results[program] = Result(program, worker.facts, failure=str(error), group=group)
    return results


def _log(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)
