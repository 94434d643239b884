"""Speed of the train step in JAX and, where PyTorch is installed, of the same step in PyTorch. Random pixels.

    python -m benchmarks.step                                      # ResNet-50, 224/96, K = 4, bfloat16
    python -m benchmarks.step --batches=128 --frameworks=jax --methods=univip --experiments=all
    python -m benchmarks.step --batches=8 --backbone=resnet18 --width=0.25 --scene_size=64 --instance_size=32 \\
        --dtype=float32                                            # for a CPU

Each program (framework, method, batch size) has a process of its own; the programs of one batch size are timed in
turns. Needs no data set and no TensorFlow. Prints a Markdown table, ratios and goals.
"""

import dataclasses
import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from absl import flags

from benchmarks.step.measure import Result, measure
from benchmarks.step.program import EXPERIMENTS, FRAMEWORKS, METHODS, Program
from benchmarks.step.table import comparisons, goals, markdown, peak_tflops
from benchmarks.step.worker import Order, Worker, sees_accelerator, torch_is_installed
from configs import common
from univip_jax.common.cli import define_path
from univip_jax.common.cli import run as run_command
from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole

NAME = "benchmarks.step"
# Flags for fields of the config, with their defaults.
FIELDS = {
    "backbone": "model.backbone",
    "width": "model.width",
    "stem": "model.stem",
    "hidden": "model.hidden",
    "projection": "model.projection",
    "dtype": "model.dtype",
    "scene_size": "views.scene_size",
    "instance_size": "views.instance_size",
    "num_instances": "views.num_instances",
}


def define_fields() -> None:
    """Defines a flag for each of FIELDS."""
    define = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}
    defaults = common.get_config()
    for name, field in FIELDS.items():
        value = defaults
        for part in field.split("."):
            value = value[part]
        define[type(value)](name, value, f"config.{field}.")


def _define_flags() -> None:
    define_fields()
    flags.DEFINE_list("batches", ["64", "128", "256"], "Images per step; all programs run for each.")
    flags.DEFINE_list("methods", list(METHODS), f"Of {', '.join(METHODS)}.")
    flags.DEFINE_list("frameworks", list(FRAMEWORKS), f"Of {', '.join(FRAMEWORKS)}.")
    flags.DEFINE_list("experiments", [], f"Changes to JAX's step, timed one by one: all, or {', '.join(EXPERIMENTS)}.")
    flags.DEFINE_bool("plain", True, "Time the unchanged step beside the experiments.")
    flags.DEFINE_integer("rounds", 5, "Times that each program is timed; the table has medians.", 1)
    flags.DEFINE_float("round_seconds", 2.0, "Approximate length of a round of steps.", 0.0)
    flags.DEFINE_string("compile_mode", "default", "Of torch.compile; none: do not compile (on CPUs it takes long).")
    flags.DEFINE_float("peak_tflops", None, "Peak of the device, if table.py lacks it or has another dtype's.")
    define_path("profile", None, "Folder for a profile of each program: kernels.json, and JAX's trace and HLO.")
    define_path("json", None, "File for all figures of all rounds.")


def known_names(flag: str, names: list[str], known: Iterable[str]) -> list[str]:
    """The names, or all known ones for `all`; raises UserError for an unknown one."""
    known = list(known)
    names = known if names == ["all"] else names
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--{flag}={unknown[0]} is unknown; choose from {', '.join(known)}")
    return names


def batch_sizes(texts: list[str]) -> list[int]:
    """The sizes; raises UserError for one that is not a number above 0."""
    if wrong := [text for text in texts if not (text.isdecimal() and int(text))]:
        raise UserError(f"--batches={wrong[0]} must be whole numbers above 0, e.g. --batches=64,128")
    return [int(text) for text in texts]


def present(frameworks: list[str]) -> list[str]:
    """Leaves PyTorch out, with a line, where it cannot be compared; raises UserError if nothing is left."""
    if "torch" in frameworks and not torch_is_installed():
        if set(frameworks) == {"torch"}:
            raise UserError("--frameworks=torch: PyTorch is not installed: pip install -r requirements-export.txt")
        print("PyTorch is not installed: JAX alone", flush=True)
    elif set(frameworks) == {"torch"}:
        if not sees_accelerator("torch") and sees_accelerator("jax"):
            raise UserError("--frameworks=torch: JAX sees an accelerator, PyTorch does not: install its build for CUDA")
        return frameworks
    elif {"jax", "torch"} <= set(frameworks) and sees_accelerator("torch") != sees_accelerator("jax"):
        print("only one of JAX and PyTorch sees an accelerator: JAX alone", flush=True)
    else:
        return frameworks
    return [name for name in frameworks if name != "torch"]


def _programs(batch_size: int, frameworks: list[str], methods: list[str], experiments: list[str]) -> list[Program]:
    """All programs of one batch size; only JAX has experiments."""
    fields = tuple((field, flags.FLAGS[name].value) for name, field in FIELDS.items())
    return [
        Program(framework, method, batch_size, experiment, fields)
        for method in methods
        for framework in frameworks
        for experiment in (*([""] if flags.FLAGS.plain else []), *(experiments if framework == "jax" else ()))
    ]


def _write(path: Path, results: list[Result]) -> None:
    settings = {name: flags.FLAGS[name].value for name in (*FIELDS, "compile_mode", "round_seconds")}
    rows = [dataclasses.asdict(result) for result in results]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"settings": settings, "results": rows}, indent=2) + "\n")


def _work() -> int:
    """Exit code 1 if a program failed for any reason but memory."""
    options = flags.FLAGS
    sizes, methods = batch_sizes(options.batches), known_names("methods", options.methods, METHODS)
    experiments = known_names("experiments", options.experiments, EXPERIMENTS)
    frameworks = present(known_names("frameworks", options.frameworks, FRAMEWORKS))
    profile = Path(options.profile) if options.profile else None
    start = partial(Worker, order=Order(options.round_seconds, options.compile_mode, profile))
    results: list[Result] = []
    for size in sizes:
        results += measure(_programs(size, frameworks, methods, experiments), options.rounds, start)
        if options.json:  # after each batch size: an interruption loses little
            _write(Path(options.json), results)
    _print(results)
    return int(any(result.failure.startswith("failed") for result in results))


def _print(results: list[Result]) -> None:
    device = next((result.facts["device"] for result in results if result.facts), "")
    known = peak_tflops(device) if flags.FLAGS.dtype == "bfloat16" else None  # the table has bfloat16's
    versions = ", ".join({result.facts["version"]: None for result in results if result.facts})
    print(f"\n{device}, {versions}{': figures of a CPU, for the record only' if device == 'cpu' else ''}\n")
    print(markdown(results, flags.FLAGS.peak_tflops or known), "", *comparisons(results), *goals(results), sep="\n")


if __name__ == "__main__":
    run_command(NAME, _define_flags, (), _work, interrupted="--json has the figures of all finished batch sizes")
