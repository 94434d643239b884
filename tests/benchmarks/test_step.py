"""The benchmark of the step: turns and memory, figures by hand, and a run without TensorFlow."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.step import __main__ as command_line
from benchmarks.step.measure import Result, measure
from benchmarks.step.program import EXPERIMENTS, Program
from benchmarks.step.table import comparisons, goals, markdown, peak_tflops, share, spread
from benchmarks.step.worker import OutOfMemory, ProgramFailed
from univip_jax.common.errors import UserError

ROOT = Path(__file__).parents[2]
TINY = (
    *("--backbone=resnet10", "--width=0.0625", "--stem=small", "--hidden=8", "--projection=4", "--dtype=float32"),
    *("--scene_size=32", "--instance_size=16", "--num_instances=2"),
)


def command(*flags: str, **environment: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "benchmarks.step", *flags]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})


def test_command_runs_without_tensorflow_and_lists_what_is_out_of_memory(tmp_path):
    for name in ("tensorflow", "tensorflow_datasets", "cv2"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    figures = tmp_path / "new" / "figures.json"
    result = command(
        *("--batches=2,1000000000", "--methods=byol", "--frameworks=jax", "--rounds=1", "--round_seconds=0", *TINY),
        f"--json={figures}",
        PYTHONPATH=str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    one, other = json.loads(figures.read_text())["results"]
    assert one["rounds"][0].keys() == {"step", "augmentation"} and one["facts"]["device"] == "cpu"
    assert one["facts"]["flops_per_image"] > 1e6 and one["facts"]["program_bytes"] > 1e5
    assert (other["program"]["batch_size"], other["rounds"], other["failure"]) == (10**9, [], "out of memory")
    assert f"| jax byol 2 | {2 / one['rounds'][0]['step']:,.1f} |" in result.stdout
    assert "| jax byol 1000000000 | out of memory |" in result.stdout
    assert "for the record only" in result.stdout


def test_mistakes_name_the_flag():
    assert command_line.known_names("experiments", ["all"], EXPERIMENTS) == list(EXPERIMENTS)
    assert command_line.batch_sizes(["64", "128"]) == [64, 128]
    with pytest.raises(UserError, match="--methods=simclr is unknown; choose from byol, univip"):
        command_line.known_names("methods", ["simclr"], ["byol", "univip"])
    for wrong in ("x", "0"):
        with pytest.raises(UserError, match=f"--batches={wrong} must be whole numbers above 0"):
            command_line.batch_sizes(["64", wrong])


@pytest.mark.pinned
def test_xla_parses_the_flags_of_each_experiment():
    """XLA ends a process with an unknown flag or value."""
    given = " ".join(experiment.xla_flags for experiment in EXPERIMENTS.values())
    environment = {**os.environ, "XLA_FLAGS": given.strip(), "JAX_PLATFORMS": "cpu"}
    code = "import jax; print(jax.devices()[0].platform)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout == "cpu\n", result.stderr


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_is_one_change(name):
    plain, changed = (Program("jax", "univip", 8, experiment).config() for experiment in ("", name))
    fields = EXPERIMENTS[name].fields
    for field, value in fields.items():
        section, leaf = field.split(".")
        assert changed[section][leaf] == value != plain[section][leaf]
        changed[section][leaf] = plain[section][leaf]
    assert changed == plain and len(fields) + bool(EXPERIMENTS[name].xla_flags) == 1


@pytest.mark.parametrize(
    ("installed", "sees", "left", "line"),
    [
        (True, {"jax", "torch"}, ["jax", "torch"], ""),
        (True, set(), ["jax", "torch"], ""),
        (True, {"jax"}, ["jax"], "only one of JAX and PyTorch sees an accelerator: JAX alone"),
        (False, {"jax"}, ["jax"], "PyTorch is not installed: JAX alone"),
    ],
)
def test_present_leaves_out_a_pytorch_that_cannot_be_compared(monkeypatch, capsys, installed, sees, left, line):
    monkeypatch.setattr(command_line, "torch_is_installed", lambda: installed)
    monkeypatch.setattr(command_line, "sees_accelerator", lambda framework: framework in sees)
    assert command_line.present(["jax", "torch"]) == left
    assert capsys.readouterr().out.strip() == line


class Fake:
    """A worker on a device that holds `room` programs at once; each takes its own name's seconds."""

    def __init__(self, log: list[str], program: Program, room: int, platform: str):
        self.facts, self.log, self.program = {"platform": platform, "device": "d"}, log, program
        if program.method == "byol" and program.framework == "torch":
            raise ProgramFailed("failed: KeyError")
        if room < 1 or self.running() >= room:
            raise OutOfMemory("out of memory")
        log.append(f"+{program}")

    def running(self) -> int:
        return sum(line[0] == "+" for line in self.log) - sum(line[0] == "-" for line in self.log)

    def round(self) -> dict[str, float]:
        self.log.append(f" {self.program}")
        return {"step": 1.0}

    def finish(self) -> int:
        self.log.append(f"-{self.program}")
        return 7


def play(room: int, platform: str, *programs: Program) -> tuple[list[Result], list[str]]:
    log: list[str] = []
    return measure(list(programs), 2, lambda program: Fake(log, program, room, platform)), log


JAX, TORCH, BYOL = Program("jax", "univip", 8), Program("torch", "univip", 8), Program("jax", "byol", 8)


def test_measure_lets_programs_take_turns():
    results, log = play(3, "gpu", JAX, TORCH)
    a, b = str(JAX), str(TORCH)
    assert log == [f"+{a}", f"+{b}", f" {a}", f" {b}", f" {a}", f" {b}", f"-{a}", f"-{b}"]
    assert [(r.program, r.rounds, r.peak_bytes, r.group) for r in results] == [
        (program, [{"step": 1.0}] * 2, 7, 0) for program in (JAX, TORCH)
    ]


@pytest.mark.parametrize(("room", "platform"), [(1, "gpu"), (3, "tpu")])
def test_measure_runs_what_does_not_fit_beside_others_after_them(room, platform):
    results, log = play(room, platform, JAX, TORCH)
    a, b = str(JAX), str(TORCH)
    assert log == [f"+{a}", f" {a}", f" {a}", f"-{a}", f"+{b}", f" {b}", f" {b}", f"-{b}"]
    assert [(r.group, r.failure) for r in results] == [(0, ""), (1, "")]
    assert "one after the other" in comparisons(results)[0]


def test_measure_reports_failures():
    results, log = play(0, "gpu", JAX, Program("torch", "byol", 8))
    assert [r.failure for r in results] == ["out of memory", "failed: KeyError"] and not log
    assert "| jax univip 8 | out of memory |" in markdown(results, None)


def test_peak_tflops_tells_similar_devices_apart():
    """The PCIe card of an H100 is slower than the SXM module; JAX calls a v5e `v5 lite`."""
    names = ("NVIDIA H200", "NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3", "TPU v5 lite", "TPU v5p", "cpu")
    assert [peak_tflops(name) for name in names] == [989.0, 756.0, 989.0, 197.0, 459.0, None]


def result(program: Program, *seconds: float, **parts: float) -> Result:
    facts = {"device": "NVIDIA H200", "compile_seconds": 30.0, "program_bytes": 2**31}
    if program.framework == "jax":
        facts["flops_per_image"] = 8e10
    return Result(program, facts, [{"step": value, **parts} for value in seconds], 2**32)


def test_figures_by_hand():
    """8 images in 4 ms are 2,000 per second; at 80 GFLOP each 160 TFLOP/s, 16.18 % of 989."""
    univip = result(JAX, 0.005, 0.004, 0.003, augmentation=0.0001, transport=0.00004)
    rival, byol = result(TORCH, 0.005, 0.006, 0.009), result(BYOL, 0.0025, 0.0032, 0.003)
    assert spread([0.005, 0.004, 0.003]) == pytest.approx(25)
    # Shares of the rounds: 0.8, 1 and 1.333 %.
    assert share(univip, "transport") == pytest.approx(1.0) and share(byol, "transport") is None
    results = [byol, univip, rival]
    rows = markdown(results, 989.0).splitlines()[2:]
    assert rows[1] == "| jax univip 8 | 2,000.0 | 25.0 | 4.0 | 160.00 | 16.2 | 2.00 | 4.00 | 30.0 | 2.5 | 1.0 |"
    assert rows[2] == "| torch univip 8 | 1,333.3 | 33.3 | 6.0 | 106.67 | 10.8 | 2.00 | 4.00 | 30.0 | - | - |"
    # PyTorch over JAX, by round: 1, 1.5, 3. UniVIP over BYOL: 2, 1.25, 1.
    assert comparisons(results) == [
        "time, UniVIP / BYOL: jax univip 8: 1.250",
        "images/s, JAX / PyTorch: torch univip 8: 1.500",
    ]
    assert goals(results)[1:] == [
        "  images/s >= 1500: 2,000.00, reached",
        "  images/s, JAX / PyTorch >= 1: 1.50, reached",
        "  time, UniVIP / BYOL <= 1.4: 1.25, reached",
        "  augmentation and transport, % <= 5: 3.50, reached",
    ]


def test_goals_are_missed_or_not_measured():
    slow = result(JAX, 0.016, augmentation=0.0008, transport=0.0001)
    assert goals([replace(slow, facts=slow.facts | {"device": "cpu"})]) == [
        "goals: for one H100 or H200, not for a CPU"
    ]
    lines = goals([slow])
    assert "H200" in lines[0] and "at batch 8" in lines[0]
    h100 = goals([replace(slow, facts=slow.facts | {"device": "NVIDIA H100 80GB HBM3"})])
    assert "for one H100" in h100[0] and h100[1] == "  images/s >= 1250: 500.00, missed"
    assert lines[1:] == [
        "  images/s >= 1500: 500.00, missed",
        "  images/s, JAX / PyTorch >= 1: -, not measured",
        "  time, UniVIP / BYOL <= 1.4: -, not measured",
        "  augmentation and transport, % <= 5: 5.62, missed",
    ]


def test_comparisons_of_an_experiment_with_the_unchanged_step():
    changed = result(Program("jax", "univip", 8, "no_blur"), 0.003, 0.003)
    assert comparisons([result(JAX, 0.004, 0.004), changed]) == ["time, with / without: jax univip 8 no_blur: 0.750"]
