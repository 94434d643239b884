"""The figures in Markdown: speed and memory, the parts of the step, ratios and goals."""

from statistics import median
from typing import Any

from benchmarks.detection.program import Program
from benchmarks.step.table import peak_tflops, spread

_PHOTOS_1X = 90_000 * 16
_COLUMNS = (
    *("program", "images/s", "spread, %", "ms per step", "TFLOP/s", "MFU, %", "program, GiB", "peak, GiB"),
    *("compile, s", "1x, h", "predict, images/s"),
)
_INSIDE = ("proposals: top-k", "proposals: NMS of one level")  # parts of parts
GOALS = {"images/s": 60.0, "times torchvision": 1.5, "GiB at most, batch 16": 40.0}
Figures = dict[Program, dict[str, Any]]  # of each program; `failure` says why some are missing


def images_per_second(program: Program, figures: dict[str, Any], part: str = "step") -> float | None:
    """At the median of the rounds; None if it was not timed."""
    seconds = figures.get("seconds", {}).get(part)
    return program.batch_size / median(seconds) if seconds else None


def markdown(figures: Figures) -> str:
    """All tables."""
    lines = [_line(_COLUMNS), _line(["---"] * len(_COLUMNS))]
    lines += [_line(_row(program, found, figures)) for program, found in figures.items()]
    for program, found in figures.items():
        if "forward" in found.get("seconds", {}):  # the first of the parts
            lines += ["", *_parts(program, found["seconds"])]
    return "\n".join([*lines, "", *goals(figures)])


def _row(program: Program, found: dict[str, Any], figures: Figures) -> list[str]:
    speed, seconds = images_per_second(program, found), found.get("seconds", {}).get("step")
    same = (f for p, f in figures.items() if p.canvas == program.canvas and "flops_per_image" in f)
    flops = next(same, {}).get("flops_per_image")  # the work is the same in torchvision
    tflops = flops and speed and flops * speed / 1e12
    peak = peak_tflops(found.get("device", "")) if program.dtype == "bfloat16" else None
    gib = [size and size / 2**30 for size in (found.get("program_bytes"), found.get("peak_bytes"))]
    cells = [speed, seconds and spread(seconds), seconds and 1000 * median(seconds), tflops]
    cells += [tflops and peak and 100 * tflops / peak, *gib, found.get("compile_seconds")]
    cells += [speed and _PHOTOS_1X / speed / 3600, images_per_second(program, found, "predict")]
    failure = f": {found['failure']}" if "failure" in found else ""
    return [f"{program}{failure}", *map(_cell, cells)]


def _parts(program: Program, seconds: dict[str, list[float]]) -> list[str]:
    """Each part alone, and what the step takes beside its forward pass."""
    times = {name: median(rounds) for name, rounds in seconds.items() if name != "predict"}
    step = times.pop("step")
    times["gradient and update (step - forward)"] = step - times["forward"]
    rows = [
        [f"- {name}" if name in _INSIDE else name, _cell(1000 * one), _cell(100 * one / step)]
        for name, one in times.items()
    ]
    head = [f"part of {program}, alone", "ms", "% of the step"]
    return [_line(head), _line(["---"] * 3), *map(_line, rows)]


def goals(figures: Figures) -> list[str]:
    """One line for each goal and canvas, and FLOPs and bytes of the compiled programs."""
    lines = []
    for program, found in figures.items():
        if "flops_per_image" not in found:
            continue
        lines.append(
            f"{program}: {found['flops_per_image'] / 1e9:,.1f} GFLOP per image, "
            f"{found['bytes_accessed'] / 2**30:,.2f} GiB read and written per step"
        )
        speed, peak = images_per_second(program, found), found.get("peak_bytes")
        other = next((p for p in figures if p.framework == "torchvision" and p.canvas == program.canvas), None)
        theirs = images_per_second(other, figures[other]) if other else None
        values = (speed, speed and theirs and speed / theirs, peak and peak / 2**30)
        for (what, goal), value in zip(GOALS.items(), values, strict=True):
            if value is not None:
                reached = value <= goal if "at most" in what else value >= goal
                lines.append(f"{program}: {value:.2f} {what}; goal {goal:g}: {'reached' if reached else 'missed'}")
    return lines


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
