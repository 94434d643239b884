"""Speed of the train step: JAX's, and the same step in PyTorch where it is installed, on random pixels in memory.

    python -m benchmarks.step                                      # ResNet-50, 224/96, K = 4, bfloat16
    python -m benchmarks.step --batches=128 --frameworks=jax --methods=univip --experiments=all
    python -m benchmarks.step --batches=8 --backbone=resnet18 --width=0.25 --scene_size=64 --instance_size=32 \\
        --dtype=float32                                            # a CPU's

Each program (framework, method, batch) runs in a process of its own, and all of a batch are timed in turns. Needs no
data set and no TensorFlow. Prints a Markdown table, ratios and goals.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path

from absl import flags

from benchmarks.step.measure import Progress, Result, measure
from benchmarks.step.program import EXPERIMENTS, FRAMEWORKS, METHODS, Program
from benchmarks.step.table import comparisons, goals, markdown, peak_tflops
from benchmarks.step.worker import Order, Worker, sees_accelerator, torch_is_installed
from configs import common
from univip_jax.common.cli import run as run_command
from univip_jax.common.errors import UserError

NAME = "benchmarks.step"
# Flags that are fields of the config, with its defaults.
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


def _define_flags() -> None:
    define = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}
    defaults = common.get_config()
    for name, field in FIELDS.items():
        value = defaults
        for part in field.split("."):
            value = value[part]
        define[type(value)](name, value, f"config.{field}.")
    flags.DEFINE_list("batches", ["64", "128", "256"], "Images a step; each of them a sweep of all programs.")
    flags.DEFINE_list("methods", list(METHODS), f"Of {', '.join(METHODS)}.")
    flags.DEFINE_list("frameworks", list(FRAMEWORKS), f"Of {', '.join(FRAMEWORKS)}.")
    flags.DEFINE_list(
        "experiments", [], f"Changes to JAX's step, each timed beside it: all, or {', '.join(EXPERIMENTS)}."
    )
    flags.DEFINE_integer("rounds", 5, "How often each program is timed; medians are reported.", 1)
    flags.DEFINE_float("round_seconds", 2.0, "About how long a round of steps takes.", 0.0)
    flags.DEFINE_string("compile_mode", "default", "Of torch.compile; none: without it (on CPUs it takes long).")
    flags.DEFINE_float("peak_tflops", None, "The device's, where the table of names has none or another dtype's.")
    flags.DEFINE_string("profile", None, "Folder for a trace by jax.profiler of each of JAX's programs.")
    flags.DEFINE_string("json", None, "File for all figures, every round among them.")


def _listed(flag: str, known: list[str]) -> list[str]:
    """The flag's names; UserError for one that is unknown."""
    names = flags.FLAGS[flag].value
    names = known if names == ["all"] else names
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--{flag}={unknown[0]} is unknown; choose from {', '.join(known)}")
    return names


def present(frameworks: list[str]) -> list[str]:
    """Without PyTorch where it cannot be compared, which is said."""
    if "torch" in frameworks and not torch_is_installed():
        print("PyTorch is not installed: JAX alone", flush=True)
    elif {"jax", "torch"} <= set(frameworks) and sees_accelerator("torch") != sees_accelerator("jax"):
        print("only one of JAX and PyTorch sees an accelerator: JAX alone", flush=True)
    else:
        return frameworks
    return [name for name in frameworks if name != "torch"]


def _batches() -> list[int]:
    try:
        sizes = [int(size) for size in flags.FLAGS.batches]
        if min(sizes) < 1:
            raise ValueError("below 1")
    except ValueError as error:
        given = ",".join(flags.FLAGS.batches)
        raise UserError(f"--batches={given} must be whole numbers above 0, as --batches=64,128") from error
    return sizes


def _programs(batch_size: int, frameworks: list[str], methods: list[str], experiments: list[str]) -> list[Program]:
    """All of one batch; the experiments are JAX's."""
    fields = tuple((field, flags.FLAGS[name].value) for name, field in FIELDS.items())
    return [
        Program(framework, method, batch_size, experiment, fields)
        for method in methods
        for framework in frameworks
        for experiment in ("", *(experiments if framework == "jax" else ()))
    ]


def _write(path: Path, results: list[Result]) -> None:
    settings = {name: flags.FLAGS[name].value for name in (*FIELDS, "compile_mode", "round_seconds")}
    rows = [dataclasses.asdict(result) for result in results]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"settings": settings, "results": rows}, indent=2) + "\n")


def _work() -> int:
    """Exit code 1 where a program failed by anything but memory."""
    options, sizes = flags.FLAGS, _batches()
    methods, experiments = _listed("methods", list(METHODS)), _listed("experiments", list(EXPERIMENTS))
    frameworks = present(_listed("frameworks", list(FRAMEWORKS)))
    programs = [_programs(size, frameworks, methods, experiments) for size in sizes]
    count = sum(map(len, programs))
    progress = Progress(
        {"compile": count, "round": count * options.rounds}, expected={"round": 1.5 * options.round_seconds}
    )
    profile = Path(options.profile) if options.profile else None
    start = partial(Worker, order=Order(options.round_seconds, options.compile_mode, profile))
    results: list[Result] = []
    for of_batch in programs:
        results += measure(of_batch, options.rounds, start, progress)
        if options.json:  # after each batch: what is measured stays
            _write(Path(options.json), results)
    _print(results)
    return int(any(result.failure.startswith("failed") for result in results))


def _print(results: list[Result]) -> None:
    device = next((result.facts["device"] for result in results if result.facts), "")
    # The table's peaks are of bfloat16.
    of_table = peak_tflops(device) if flags.FLAGS.dtype == "bfloat16" else None
    versions = {result.facts["version"]: None for result in results if result.facts}
    said = f"{device}, {', '.join(versions)}"
    if device == "cpu":
        said += ": figures of a CPU, for the record only"
    lines = [
        f"\n{said}\n",
        markdown(results, flags.FLAGS.peak_tflops or of_table),
        "",
        *comparisons(results),
        *goals(results),
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    run_command(NAME, _define_flags, (), _work, interrupted="what --json has is complete")
