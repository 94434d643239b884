"""The measurements that need a GPU, as one resumable command of two calls of ten minutes.

    python -m benchmarks.gpu --out=DIR --parts=A1,A2,A3,A4,A5    # at most 530 s
    python -m benchmarks.gpu --out=DIR --parts=B1,B2,B3,B4,B5,B6 # at most 580 s

Each part is a process with a time limit, and writes DIR/PART.json; a part whose file is there is not run again. The
table at the end has predictions beside what was measured. Needs no data set and no TensorFlow. Exit code 1 if a part
failed.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from absl import flags

from benchmarks.step.__main__ import FIELDS, define_fields, known_names
from benchmarks.step.trace import kernel_table
from univip_jax.common.cli import define_path
from univip_jax.common.cli import run as run_command

NAME = "benchmarks.gpu"


@dataclass(frozen=True)
class Part:
    """One process. `size`: its batch over --batch. `predicted`: for one H100, and the note says of what."""

    what: str
    limit: int  # s
    predicted: str
    size: float = 0.0  # 0: the ceilings
    framework: str = "jax"
    method: str = "univip"
    experiment: str = ""


PARTS = {
    "A1": Part("copy TB/s; bf16 product TFLOP/s", 40, "3.0; 798"),
    "A2": Part("UniVIP, images/s", 170, "1,250 to 1,580", 1),
    "A3": Part("PyTorch UniVIP, images/s", 130, "JAX / PyTorch at least 1.0", 1, framework="torch"),
    "A4": Part("BYOL, images/s", 100, "UniVIP / BYOL 1.36 to 1.40", 1, method="byol"),
    "A5": Part("UniVIP, half the batch, images/s", 90, "81 to 95 ms at 128", 0.5),
    "B1": Part("convolutions in CUDA graphs", 90, "time 0.97 to 1.00 of A5", 0.5, experiment="conv_graphs"),
    "B2": Part("no CUDA graphs", 90, "time at least 1.00 of A5", 0.5, experiment="no_graphs"),
    "B3": Part("no blur", 90, "time at least 0.98 of A5", 0.5, experiment="no_blur"),
    "B4": Part("no multi-output fusion", 90, "below 1.00 of A5 if sums and siblings clash", 0.5, experiment="no_multi"),
    "B5": Part("kernels that add in any order", 90, "unknown", 0.5, experiment="any_order"),
    "B6": Part("UniVIP, twice the batch, images/s", 130, "56 GiB at 512", 2),
}


def _define_flags() -> None:
    define_fields()
    define_path("out", None, "Folder for the parts' figures.")
    flags.DEFINE_list("parts", ["all"], f"all, or of {', '.join(PARTS)}.")
    flags.DEFINE_integer("batch", 256, "Images per step of A2, A3 and A4; A5 and B1 to B5 have half, B6 twice.", 2)
    flags.DEFINE_integer("rounds", 5, "Times that each program is timed.", 1)
    flags.DEFINE_float("round_seconds", 2.0, "Approximate length of a round of steps.", 0.0)
    flags.DEFINE_string("compile_mode", "default", "Of torch.compile; none: do not compile.")


def command(name: str, path: Path) -> list[str]:
    """The command line of a part, which writes its figures to `path`."""
    part, options = PARTS[name], flags.FLAGS
    if not part.size:
        return [sys.executable, "-m", "benchmarks.step.ceilings", f"--json={path}"]
    same = [f"--{flag}={options[flag].value}" for flag in (*FIELDS, "rounds", "round_seconds", "compile_mode")]
    program = [f"--frameworks={part.framework}", f"--methods={part.method}"]
    program += [f"--experiments={part.experiment}", "--noplain"] if part.experiment else []
    program += [f"--profile={path.parent / 'trace'}"] if name == "A2" else []
    batch = f"--batches={int(options.batch * part.size)}"
    return [sys.executable, "-m", "benchmarks.step", batch, *program, *same, f"--json={path}"]


def run_part(line: Callable[[Path], list[str]], path: Path, limit: float) -> str:
    """Runs a part unless its file is there; returns why it failed, or nothing. Its log lies beside the file."""
    if path.is_file():
        print(f"{path.stem}: done before, see {path}", flush=True)
        return ""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished, log = path.with_suffix(".unfinished"), path.with_suffix(".log")
    print(f"{path.stem}: at most {limit:g} s", flush=True)
    with open(log, "wb") as file:
        process = subprocess.Popen(line(unfinished), stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"not done after {limit:g} s"
        finally:  # its workers too, also where Ctrl-C ends this command
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code or not unfinished.is_file():
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        return f"exit code {code}: {last[0][:120]}"
    os.replace(unfinished, path)
    return ""


def figures(found: dict[str, Any]) -> tuple[str, float | None, str]:
    """(device, seconds per step, text) of what a part wrote."""
    if "copy_tb_per_s" in found:
        return found["device"], None, f"{found['copy_tb_per_s']:.3f}; {found['product_tflops']:.1f}"
    result = found["results"][0]
    if result["failure"]:
        return "", None, result["failure"]
    seconds = median(one["step"] for one in result["rounds"])
    peak = f", peak {result['peak_bytes'] / 2**30:.1f} GiB" if result["peak_bytes"] else ""
    rate = result["program"]["batch_size"] / seconds
    compiled = result["facts"]["compile_seconds"]
    text = f"{rate:,.1f} images/s, {1000 * seconds:.1f} ms{peak}, compiled in {compiled:.0f} s"
    return result["facts"]["device"], seconds, text


def table(folder: Path, failures: dict[str, str]) -> str:
    """One row for each part: what was predicted for an H100, what was measured, and on which device."""
    found = {name: json.loads(path.read_text()) for name in PARTS if (path := folder / f"{name}.json").is_file()}
    read = {name: figures(one) for name, one in found.items()}
    seconds = {name: one[1] for name, one in read.items() if one[1]}
    lines = ["| part | what | predicted, H100 | measured | device |", "| --- | --- | --- | --- | --- |"]
    for name, part in PARTS.items():
        device, _, text = read.get(name, ("", None, failures.get(name, "not run")))
        if {name, "A5"} <= seconds.keys() and part.experiment:
            text += f"; time {seconds[name] / seconds['A5']:.3f} of A5"
        if {name, "A2"} <= seconds.keys() and name == "A3":
            text += f"; JAX / PyTorch {seconds[name] / seconds['A2']:.3f}"
        if {name, "A2"} <= seconds.keys() and name == "A4":
            text += f"; UniVIP / BYOL {seconds['A2'] / seconds[name]:.3f}"
        lines.append(f"| {name} | {part.what} | {part.predicted} | {text} | {device} |")
    return "\n".join(lines)


def _work() -> int:
    folder, failures = Path(flags.FLAGS.out), {}
    for name in known_names("parts", flags.FLAGS.parts, PARTS):
        failure = run_part(lambda path, name=name: command(name, path), folder / f"{name}.json", PARTS[name].limit)
        if failure:
            failures[name] = failure
            print(f"{name}: {failure}", flush=True)
    print("", table(folder, failures), sep="\n")
    for path in sorted(folder.glob("trace/*/kernels.json")):
        print(
            "\nkernels of A2, predicted: convolutions 32 to 40 %, gaps below 5 %, augmentation 3.5 to 5 %", end="\n\n"
        )
        print(kernel_table(json.loads(path.read_text())))
    return int(bool(failures))


if __name__ == "__main__":
    run_command(NAME, _define_flags, ("out",), _work, interrupted="run it again: finished parts are not repeated")
