"""The measurements that need a GPU, as one command that can be interrupted and run again.

    python -m benchmarks.gpu --out=DIR --seconds=390      # the same line again goes on where it ended

Each part is a process with a time limit, and its figures are in DIR/DEVICE/PART.json as soon as it ends. A part with
figures of the same flags and versions is not run again. Parts come in the order of what they steer, those that failed
before at the end; a part that --seconds leaves too little time waits for the next call. Needs no data set and no
TensorFlow. The table has predictions beside what was measured. Exit code 1 while a part has no figures.
"""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jaxlib
from absl import flags

from benchmarks.limited import run_part
from benchmarks.step.__main__ import FIELDS, define_fields, known_names
from benchmarks.step.trace import kernel_table
from univip_jax.common.cli import define_path
from univip_jax.common.cli import run as run_command
from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole

NAME = "benchmarks.gpu"
_STEP = "benchmarks.step"


@dataclass(frozen=True)
class Part:
    """One process. `size`: its batch over --batch. `predicted`: for one H100, and the note says of what."""

    what: str
    limit: int  # s
    predicted: str
    size: float = 1
    module: str = _STEP
    framework: str = "jax"
    method: str = "univip"
    experiment: str = ""
    profile: bool = False

    @property
    def keeps_choices(self) -> bool:
        """Whether XLA's choices of kernels are kept for, and taken from, other parts: not where they are the matter."""
        return self.module == _STEP and self.framework == "jax" and self.experiment != "any_order"


PARTS = {  # what steers most comes first
    "A1": Part("copy TB/s; bf16 product TFLOP/s", 40, "3.0; 798", module="benchmarks.step.ceilings"),
    "A2": Part("UniVIP", 170, "1,250 to 1,580 images/s", profile=True),
    "A3": Part("PyTorch UniVIP", 130, "JAX / PyTorch at least 1.0", framework="torch", profile=True),
    "A4": Part("BYOL", 100, "UniVIP / BYOL 1.36 to 1.40", method="byol"),
    "C1": Part("a step of 16 repeats", 170, "equal bits", module="benchmarks.repeats"),
    "C2": Part("cut of the views", 60, "equal bits", module="benchmarks.step.cut"),
    "A5": Part("UniVIP, half the batch", 90, "81 to 95 ms at 128", 0.5),
    "B1": Part("convolutions in CUDA graphs", 80, "time 0.97 to 1.00 of A5", 0.5, experiment="conv_graphs"),
    "B4": Part("no multi-output fusion", 80, "below 1.00 of A5 if sums and siblings clash", 0.5, experiment="no_multi"),
    "B6": Part("UniVIP, twice the batch", 120, "56 GiB at 512", 2),
    "B2": Part("no CUDA graphs", 80, "time at least 1.00 of A5", 0.5, experiment="no_graphs"),
    "B5": Part("kernels that add in any order", 90, "unknown", 0.5, experiment="any_order"),
    "B3": Part("no blur", 80, "time at least 0.98 of A5", 0.5, experiment="no_blur"),
}


def _define_flags() -> None:
    define_fields()
    define_path("out", None, "Folder for the parts' figures.")
    flags.DEFINE_list("parts", ["all"], f"all, or of {', '.join(PARTS)}.")
    flags.DEFINE_integer("seconds", 580, "Of this call; none of its parts runs longer.", 1)
    flags.DEFINE_integer("batch", 256, "Images per step of A2, A3 and A4; A5 and B1 to B5 have half, B6 twice.", 2)
    flags.DEFINE_integer("canvas", 640, "Side of the photos of C2, px.", 1)
    flags.DEFINE_integer("rounds", 5, "Times that each program is timed.", 1)
    flags.DEFINE_float("round_seconds", 2.0, "Approximate length of a round of steps.", 0.0)
    flags.DEFINE_string("compile_mode", "default", "Of torch.compile; none: do not compile.")


def command(name: str) -> list[str]:
    """Python's arguments for a part, but for where it writes."""
    part, options = PARTS[name], flags.FLAGS
    batch = int(options.batch * part.size)
    given = lambda *names: [f"--{flag}={options[flag].value}" for flag in names]  # noqa: E731
    if part.module == _STEP:
        line = [f"--batches={batch}", f"--frameworks={part.framework}", f"--methods={part.method}"]
        line += [f"--experiments={part.experiment}", "--noplain"] if part.experiment else []
        return ["-m", _STEP, *line, *given(*FIELDS, "rounds", "round_seconds", "compile_mode")]
    if part.module == "benchmarks.step.ceilings":
        return ["-m", part.module]
    return ["-m", part.module, *given(*FIELDS, *(["batch", "canvas"] if name == "C2" else []))]


def conv_ms(record: dict[str, Any]) -> float:
    """ms per step of all convolutions in a part's profile."""
    return sum(ms for kind, ms in record["kernels"]["classes_ms"].items() if kind.startswith("conv"))


def step_seconds(record: dict[str, Any]) -> float:
    """Seconds per step, the median of the rounds."""
    return median(one["step"] for one in record["found"]["results"][0]["rounds"])


def figures(record: dict[str, Any]) -> str:
    """The figures of a part that did not fail."""
    found = record["found"]
    if "copy_tb_per_s" in found:
        return f"{found['copy_tb_per_s']:.3f}; {found['product_tflops']:.1f}"
    if "ms_per_image" in found:
        same = f"boxes of {found['boxes_differ']} and crops of {found['crops_differ']} of {found['compared']} photos"
        return f"{found['ms_per_image']:.3f} ms an image; {same} differ from the CPU's"
    if "near_float32" in found:
        near = f"statistics of norms {100 * found['statistics_median']:.2f} % off float32's on the CPU by the median"
        return f"equal bits compiled anew and resumed; {near}, loss {found['loss'] - found['loss_float32_cpu']:+.3f}"
    result, seconds = found["results"][0], step_seconds(record)
    peak = f", peak {result['peak_bytes'] / 2**30:.1f} GiB" if result["peak_bytes"] else ""
    rate, (old, now) = result["program"]["batch_size"] / seconds, record["choices"]
    choices = f" with {old} stored choices, {now - old} new" if now else ""
    compiled = result["facts"]["compile_seconds"]
    return f"{rate:,.1f} images/s, {1000 * seconds:.1f} ms{peak}, compiled in {compiled:.0f} s{choices}"


def table(records: dict[str, dict[str, Any]], device: str) -> str:
    """One row for each part: what was predicted for an H100, and what was measured."""
    done = {name: record for name, record in records.items() if not record["failure"]}
    lines = [f"| part | what | predicted, H100 | measured, {device} | s |", "| --- | --- | --- | --- | --- |"]
    for name, part in PARTS.items():
        text = figures(done[name]) if name in done else records.get(name, {}).get("failure", "not run")
        if {name, "A5"} <= done.keys() and part.experiment:
            text += f"; time {step_seconds(done[name]) / step_seconds(done['A5']):.3f} of A5"
        if {name, "A2"} <= done.keys() and name == "A3":
            text += f"; JAX / PyTorch {step_seconds(done[name]) / step_seconds(done['A2']):.3f}"
            text += f"; convolutions {conv_ms(done[name]):.1f} ms a step, JAX's {conv_ms(done['A2']):.1f}"
        if {name, "A2"} <= done.keys() and name == "A4":
            text += f"; UniVIP / BYOL {step_seconds(done['A2']) / step_seconds(done[name]):.3f}"
        spent = f"{records[name]['seconds']:.0f}" if name in records else ""
        lines.append(f"| {name} | {part.what} | {part.predicted} | {text} | {spent} |")
    return "\n".join(lines)


def seen_device() -> str:
    """The name of JAX's first device, asked in a process that lets go of it."""
    line = [sys.executable, "-c", "import jax; print(jax.devices()[0].device_kind)"]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"JAX sees no device: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return done.stdout.strip()


def made_by(name: str, device: str) -> dict[str, Any]:
    """What a part's figures depend on."""
    settings = {"command": command(name), "xla_flags": os.environ.get("XLA_FLAGS", "")}
    return {"device": device, "jax": jax.__version__, "jaxlib": jaxlib.__version__, **settings}


def known_records(folder: Path, device: str) -> dict[str, dict[str, Any]]:
    """The records of parts that ran with this call's flags, on this device, by these versions."""
    found = {name: json.loads(path.read_text()) for name in PARTS if (path := folder / f"{name}.json").is_file()}
    return {name: record for name, record in found.items() if record["made_by"] == made_by(name, device)}


def waiting(names: list[str], known: dict[str, dict[str, Any]]) -> list[str]:
    """The parts without figures, in order; those that failed before come last."""
    return sorted((name for name in names if name not in known or known[name]["failure"]), key=known.__contains__)


def run_parts(names: list[str], folder: Path, device: str, until: float) -> None:
    """Runs parts in order until the time (monotonic, s); writes the record of each at once."""
    for name in names:
        limit = min(PARTS[name].limit, max(0, until - time.monotonic()))
        if limit < PARTS[name].limit / 2:
            print(f"{name}: {limit:.0f} s of --seconds are left, too few: the next call runs it", flush=True)
            continue
        print(f"{name}: at most {limit:.0f} s", flush=True)
        choices = folder / "choices" / jaxlib.__version__ if PARTS[name].keeps_choices else None
        record = run_part(command(name), folder / f"{name}.json", limit, choices, PARTS[name].profile)
        if record["failure"]:
            print(f"{name}: {record['failure']}; see {folder / name}.log", flush=True)
        if record["seconds"] < limit or limit == PARTS[name].limit:  # else it was --seconds that ended it
            record["made_by"] = made_by(name, device)
            write_whole(folder / f"{name}.json", json.dumps(record, indent=1) + "\n")


def _work() -> int:
    until = time.monotonic() + flags.FLAGS.seconds
    names, device = known_names("parts", flags.FLAGS.parts, PARTS), seen_device()
    folder = Path(flags.FLAGS.out) / re.sub(r"\W+", "_", device)
    known = known_records(folder, device)
    later = waiting(names, known)
    print(f"{device}; done before: {', '.join(name for name in names if name not in later) or 'nothing'}", flush=True)
    run_parts(later, folder, device, until)
    records = known_records(folder, device)
    print("", table(records, device), sep="\n")
    if kernels := records.get("A2", {}).get("kernels"):
        shares = "convolutions 32 to 40 %, gaps below 5 %, augmentation 3.5 to 5 %"
        print(f"\nkernels of A2, predicted: {shares}\n", kernel_table(kernels), sep="\n")
    return int(any(name not in records or records[name]["failure"] for name in names))


if __name__ == "__main__":
    run_command(NAME, _define_flags, ("out",), _work, interrupted="run it again: finished parts are not repeated")
