"""A program in a process of its own: its memory is its own, and goes when it ends, whatever became of it.

The process compiles, says what it knows, and then times a round whenever it is asked to.
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

_MAX_CALLS = 1000  # a round


@dataclass(frozen=True)
class Order:
    """How a program is timed."""

    round_seconds: float  # of steps; each other part takes a quarter of it
    compile_mode: str  # of torch.compile
    profile: Path | None  # a folder for JAX's trace of some steps after the rounds


class ProgramFailed(Exception):
    """A program cannot be timed; the message says why."""


class OutOfMemory(ProgramFailed):
    """It does not fit the memory of the device, or of the host: an answer, not a mistake."""


def torch_is_installed() -> bool:
    """Without importing it."""
    return importlib.util.find_spec("torch") is not None


def sees_accelerator(framework: str) -> bool:
    """Asked in a process that ends at once: whoever sees a device may hold it."""
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
    """Compiles; frameworks are imported here, after what they read from the environment is set."""
    if program.framework == "torch":
        os.environ["JAX_PLATFORMS"] = "cpu"  # our specs import JAX, which must not take the device
        os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # the time to compile is a figure
        from benchmarks.step.torch_step import TorchStep

        return TorchStep(program, order.compile_mode)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # others are on the device at the same time
    # XLA takes what does not begin with "--" for a file's name.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {program.xla_flags}".strip()
    from benchmarks.step.jax_step import JaxStep

    return JaxStep(program)


def seconds_a_call(call: Callable[[], Any], wait: Callable[[], None], count: int) -> float:
    """Mean over `count` calls, queued one behind the other."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - began) / count


def serve(connection: Connection, program: Program, order: Order) -> None:
    """What the process does: sends facts, then seconds of each part for every `round` it receives, then peak bytes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    try:
        step = make_step(program, order)
        counts = {}
        for name, call in step.parts.items():
            seconds_a_call(call, step.wait, 1)
            seconds = order.round_seconds if name == "step" else order.round_seconds / 4
            counts[name] = min(_MAX_CALLS, max(1, round(seconds / seconds_a_call(call, step.wait, 1))))
        connection.send(step.facts)
        while connection.recv() == "round":
            connection.send({name: seconds_a_call(step.parts[name], step.wait, counts[name]) for name in counts})
        step.check()
        if order.profile and program.framework == "jax":
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
    """The parent's side of a program's process; each call waits for its answer.

    Raises:
      ProgramFailed: it ran out of memory (OutOfMemory), or failed; the process is gone then.
      UserError: a field of the config cannot be.
    """

    def __init__(self, program: Program, order: Order):
        context = multiprocessing.get_context("spawn")  # a fork would share the threads of what is imported
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, program, order), daemon=True)
        self._process.start()
        theirs.close()
        self.facts = self._receive()

    def round(self) -> dict[str, float]:
        """Seconds a call of each part."""
        self._connection.send("round")
        return self._receive()

    def finish(self) -> int | None:
        """Ends the process; the peak bytes of its device, where known."""
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
            if self._process.exitcode == -signal.SIGKILL:  # the kernel's answer to what outgrows the host's memory
                answer = OutOfMemory("out of memory: the host killed it")
        if isinstance(answer, Exception):
            self._process.join()
            raise answer
        return answer
