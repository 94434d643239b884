"""The process of one program."""

import os
import traceback
from typing import Any

import jax

from benchmarks.detection.program import Program
from benchmarks.step.worker import is_out_of_memory


def measure(program: Program, rounds: int, round_seconds: float) -> dict[str, Any]:
    """The figures of a program; `failure` says why some are missing."""
    figures: dict[str, Any] = {}
    jax.config.update("jax_enable_compilation_cache", False)  # the time to compile is a figure
    try:
        if program.framework == "torchvision":
            jax.config.update("jax_platforms", "cpu")  # the specs import JAX, which must not take the device
            from benchmarks.detection import torchvision_step as step
        else:
            os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the peak is a figure
            from benchmarks.detection import jax_step as step
        step.measure(program, rounds, round_seconds, figures)
    except Exception as error:
        if is_out_of_memory(error):
            return figures | {"failure": "out of memory"}
        traceback.print_exc()
        return figures | {"failure": f"failed: {type(error).__name__}"}
    return figures
