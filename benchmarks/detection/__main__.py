"""Speed of Mask R-CNN's train step and of its parts and, where torchvision is installed, of torchvision's.

    python -m benchmarks.detection --out=detection.json          # ResNet-50, two canvases, batch 16, bfloat16
    python -m benchmarks.detection --small --out=detection.json  # for a CPU
    python -m benchmarks.detection --compile_only --canvas=800x1088 --batch_size=1 --out=compiled.json

Each program (framework, canvas) has a process of its own. The parts are compiled and timed on the first canvas. Random
pixels and objects; needs no data set and no TensorFlow. Prints tables and goals; --out is written after each program.
"""

import dataclasses
import importlib.util
import json
import multiprocessing
import re
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.detection.program import FRAMEWORKS, Program
from benchmarks.detection.table import Figures, markdown
from benchmarks.detection.worker import measure
from benchmarks.step.worker import sees_accelerator
from univip_jax.common.cli import define_path, run
from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole

NAME = "benchmarks.detection"


def _define_flags() -> None:
    flags.DEFINE_list("canvas", None, "Height x width, px; by default 800x1088,800x1344, with --small 192x256.")
    flags.DEFINE_integer("batch_size", None, "Photos per step; by default 16, with --small 2.", 1)
    flags.DEFINE_enum("dtype", None, ["bfloat16", "float32"], "By default bfloat16, with --small float32.")
    flags.DEFINE_bool("small", False, "The network of configs/detection.py:schedule=small.")
    flags.DEFINE_bool("compile_only", False, "JAX alone: FLOPs, bytes and memory of the compiled step.")
    flags.DEFINE_list("frameworks", list(FRAMEWORKS), f"Of {', '.join(FRAMEWORKS)}.")
    flags.DEFINE_integer("rounds", 5, "Times that each part is timed; the table has medians.", 1)
    flags.DEFINE_float("round_seconds", 2.0, "Approximate length of a round of steps.", 0.0)
    define_path("out", None, "File for all figures, JSON.")


def canvases(texts: list[str]) -> list[tuple[int, int]]:
    """Height and width of each; raises UserError for one that the pyramid cannot halve five times."""
    found = [re.fullmatch(r"(\d+)x(\d+)", text) for text in texts]
    sizes = [match and (int(match[1]), int(match[2])) for match in found]
    for text, size in zip(texts, sizes, strict=True):
        if not size or min(size) < 32 or any(side % 32 for side in size):
            raise UserError(f"--canvas={text} must be HEIGHTxWIDTH, multiples of 32 px, e.g. --canvas=800x1088")
    return sizes


def present(frameworks: list[str], small: bool, compile_only: bool) -> list[str]:
    """Leaves torchvision out, with a line, where it cannot be compared; raises UserError for an unknown framework."""
    if unknown := set(frameworks) - set(FRAMEWORKS):
        raise UserError(f"--frameworks={sorted(unknown)[0]} is unknown; choose from {', '.join(FRAMEWORKS)}")
    if "torchvision" not in frameworks or compile_only:
        return [name for name in frameworks if name == "jax"]
    if any(importlib.util.find_spec(name) is None for name in ("torch", "torchvision")):
        why = "torchvision is not installed"
    elif small:
        why = "torchvision has no network of this size"
    elif "jax" in frameworks and sees_accelerator("torch") != sees_accelerator("jax"):
        why = "only one of JAX and PyTorch sees an accelerator"
    else:
        return frameworks
    print(f"{why}: JAX alone", flush=True)
    return [name for name in frameworks if name == "jax"]


def _in_a_process(program: Program) -> dict[str, Any]:
    """Its figures, from a process that holds the device for itself."""
    print(f"[{time.strftime('%H:%M:%S')}] {program}", flush=True)
    options = flags.FLAGS
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, program, options.rounds, options.round_seconds).result()
        except BrokenProcessPool:
            return {"failure": "out of memory: the host killed its process"}


def _work() -> int:
    """Exit code 1 if a program failed for any reason but memory."""
    options = flags.FLAGS
    sizes = canvases(options.canvas or (["192x256"] if options.small else ["800x1088", "800x1344"]))
    frameworks = present(options.frameworks, options.small, options.compile_only)
    batch_size = options.batch_size or (2 if options.small else 16)
    dtype = options.dtype or ("float32" if options.small else "bfloat16")
    figures: Figures = {}
    for number, canvas in enumerate(sizes):
        for framework in frameworks:
            program = Program(
                framework, canvas, batch_size, dtype, options.small, parts=not number, execute=not options.compile_only
            )
            figures[program] = _in_a_process(program)
            _write(Path(options.out), figures)  # after each: an interruption loses little
    device = next((found["device"] for found in figures.values() if "device" in found), "")
    versions = ", ".join({found["version"]: None for found in figures.values() if "version" in found})
    print(f"\n{device}, {versions}{': figures of a CPU, for the record only' if device == 'cpu' else ''}\n")
    print(markdown(figures))
    return int(any(found.get("failure", "").startswith("failed") for found in figures.values()))


def _write(path: Path, figures: Figures) -> None:
    rows = [{"program": dataclasses.asdict(program)} | found for program, found in figures.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    run(NAME, _define_flags, ("out",), _work, interrupted="--out has the figures of all finished programs")
