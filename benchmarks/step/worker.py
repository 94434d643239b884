"""A program in a process of its own, which frees its memory however it ends.

The process compiles, sends its facts, and then times a round on each request.
"""

import importlib.util
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.step.program import Program
from univip_jax.common.errors import UserError

_MAX_CALLS = 1000  # per round


@dataclass(frozen=True)
class Order:
    """How a program is timed."""

    round_seconds: float  # for steps; a quarter of it for each other part
    compile_mode: str  # of torch.compile
    profile: Path | None  # folder for a profile of some steps after the rounds


class ProgramFailed(Exception):
    """A program cannot be timed; the message says why."""


class OutOfMemory(ProgramFailed):
    """The program does not fit the memory of the device or the host: a result, not a mistake."""


def torch_is_installed() -> bool:
    """Whether PyTorch is installed, without importing it."""
    return importlib.util.find_spec("torch") is not None


def sees_accelerator(framework: str) -> bool:
    """Whether a framework sees one; asked in a short process, since a process that sees a device may hold it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_sees_accelerator, framework).result()


def _sees_accelerator(framework: str) -> bool:
    if framework == "torch":
        import torch

        return torch.cuda.is_available()
    import jax

    return jax.default_backend() != "cpu"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a framework or Python ran out of the memory of a device or of the host."""
    words = ("RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def make_step(program: Program, order: Order) -> Any:
    """Compiles the step. Imports the framework late, after setting its environment variables."""
    if program.framework == "torch":
        os.environ["JAX_PLATFORMS"] = "cpu"  # the specs import JAX, which must not take the device
        os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # the time to compile is a figure
        from benchmarks.step.torch_step import TorchStep

        return TorchStep(program, order.compile_mode)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # other programs share the device
    os.environ["XLA_CLIENT_MEM_FRACTION"] = "0.95"  # else 75 % is the limit, by a hair too little for batch 512
    # XLA reads a value that does not begin with "--" as a file name.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {program.xla_flags}".strip()
    from benchmarks.step.jax_step import JaxStep

    return JaxStep(program)


def seconds_per_call(call: Callable[[], Any], wait: Callable[[], None], count: int) -> float:
    """Mean over `count` queued calls."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - began) / count


def serve(connection: Connection, program: Program, order: Order) -> None:
    """The process: sends facts, then the seconds of each part per `round` received, then the peak bytes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    try:
        step = make_step(program, order)
        counts = {}
        for name, call in step.parts.items():
            seconds_per_call(call, step.wait, 1)
            seconds = order.round_seconds if name == "step" else order.round_seconds / 4
            counts[name] = min(_MAX_CALLS, max(1, round(seconds / seconds_per_call(call, step.wait, 1))))
        connection.send(step.facts)
        while connection.recv() == "round":
            connection.send({name: seconds_per_call(step.parts[name], step.wait, counts[name]) for name in counts})
        step.check()
        if order.profile:
            step.profile(order.profile / str(program).replace(" ", "_"))
        connection.send({"peak_bytes": step.peak_bytes()})
    except UserError as error:
        connection.send(error)
    except Exception as error:
        if is_out_of_memory(error):
            connection.send(OutOfMemory("out of memory"))
        else:
            traceback.print_exc()
            connection.send(ProgramFailed(f"failed: {type(error).__name__}"))


class Worker:
    """The parent's side of a program's process; each call waits for the answer.

    Raises:
      ProgramFailed: the program ran out of memory (OutOfMemory) or failed; its process has ended.
      UserError: a field of the config is wrong.
    """

    def __init__(self, program: Program, order: Order):
        context = multiprocessing.get_context("spawn")  # a fork would copy locks of running threads
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, program, order), daemon=True)
        self._process.start()
        theirs.close()
        self.facts = self._receive()

    def round(self) -> dict[str, float]:
        """Seconds per call of each part."""
        self._connection.send("round")
        return self._receive()

    def finish(self) -> int | None:
        """Ends the process; returns the peak bytes of its device, if known."""
        self._connection.send("finish")
        peak_bytes = self._receive()["peak_bytes"]
        self._process.join()
        return peak_bytes

    def _receive(self) -> dict[str, Any]:
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            answer = ProgramFailed(f"failed: its process ended with code {self._process.exitcode}")
            if self._process.exitcode == -signal.SIGKILL:  # the kernel kills a process that outgrows the host's memory
                answer = OutOfMemory("out of memory: the host killed it")
        if isinstance(answer, Exception):
            self._process.join()
            raise answer
        return answer
