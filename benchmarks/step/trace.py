"""Kernel time by class, and the largest kernels with their bytes per second: a profiler's trace and the optimised HLO.

A kernel's bytes are those of its operands and results in the program, caches left aside; what a slice leaves out
counts too. The profiler runs a GPU's kernels without CUDA graphs: take shares from here, times from the rounds.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from jax.profiler import ProfileData

CLASSES = (
    *("conv fprop", "conv dgrad", "conv wgrad", "products", "column reductions", "loop fusions"),
    *("pool", "augmentation", "copies", "other"),
)
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")
_AUGMENTATION = ("augment.py", "colors.py")  # whose lines the program names


class Kernel(NamedTuple):
    """An instruction of the optimised program."""

    name: str
    kind: str  # one of CLASSES
    bytes: int


def classify(name: str, text: str) -> str:
    """The class of a kernel. `text`: its line of HLO, with the names of source files; empty if it is not known."""
    backward = "transpose(" in text
    if any(file in text for file in _AUGMENTATION):
        return "augmentation"
    if re.search(r"reduce_window|select_and_scatter|max_pool", text):
        return "pool"
    if "convBackwardFilter" in text or "conv-bw-filter" in name or "wgrad" in name:
        return "conv wgrad"
    if "convBackwardInput" in text or "conv-bw-input" in name or "dgrad" in name:
        return "conv dgrad"
    if re.search(r"cudnn\$?-?conv", text + name) or "fprop" in name or name.startswith("convolution"):
        return "conv dgrad" if backward else "conv fprop"
    if re.search(r"gemm|cublas|^dot", name + text.partition("metadata")[0]):
        return "products"
    if re.match(r"(input_\w*|wrapped_)?reduce", name) or re.match(r"input_\w*reduce", name):
        return "column reductions"
    if re.match(r"copy|Memcpy|Memset|memcpy|memset", name):
        return "copies"
    return "loop fusions" if re.match(r"loop_|input_|wrapped_|\w*fusion", name) else "other"


def kernels(hlo: str) -> dict[str, Kernel]:
    """The instructions of `compiled.as_text()` by the name that a profiler gives them."""
    files, shapes, lines = _files_of_frames(hlo), {}, {}
    for line in hlo.splitlines():
        if match := _INSTRUCTION.match(line):
            name, shape, _, rest = match.groups()
            shapes[name] = _size(shape)
            lines[name] = rest + files.get(frame[1] if (frame := re.search(r"stack_frame_id=(\d+)", rest)) else "", "")
    found = {}
    for name, text in lines.items():
        operands = re.findall(r"%([\w.-]+)", text.partition(")")[0])
        size = shapes[name] + sum(shapes.get(operand, 0) for operand in operands)
        found[name] = Kernel(name, classify(name, text), size)
    return found


def _size(shape: str) -> int:
    """Bytes of a shape or of a tuple of shapes, as (bf16[8,4]{1,0}, pred[2]{0})."""
    return sum(
        math.prod(int(dim) for dim in dims.split(",") if dim) * int(bits or 8) // 8
        for _, bits, dims in _SHAPE.findall(shape)
    )


def _files_of_frames(hlo: str) -> dict[str, str]:
    """The names of the source files in each stack frame, from the tables at the head of the program."""
    files = dict(re.findall(r'^(\d+) "(.*\.py)"$', hlo, re.M))
    places = dict(re.findall(r"^(\d+) \{file_name_id=(\d+)", hlo, re.M))
    frames = {
        frame: (place, str(int(parent) - 1))  # XLA prints the parent's number plus one: 0 is none
        for frame, place, parent in re.findall(r"^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)", hlo, re.M)
    }

    def walk(frame: str) -> str:
        names = []
        while frame in frames:
            place, parent = frames[frame]
            names.append(files.get(places.get(place, ""), ""))
            frame = parent if int(parent) < int(frame) else ""
        return " ".join(names)

    return {frame: walk(frame) for frame in frames}


def read_events(folder: Path) -> list[tuple[str, int, int]]:
    """(operation, start, end in ns) of each event of the newest trace that names an operation of the program."""
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    events = []
    for plane in ProfileData.from_file(str(newest)).planes:
        for line in plane.lines:
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation and not str(operation).startswith(("while", "call", "conditional")):  # these hold others
                    events.append((str(operation), int(event.start_ns), int(event.start_ns + event.duration_ns)))
    return events


def summary(events: Iterable[tuple[str, int, int]], program: dict[str, Kernel], steps: int) -> dict[str, Any]:
    """ms per step of each class and of gaps, when no kernel ran, and the 20 kernels that took longest."""
    events = sorted(events, key=lambda event: event[1])
    time, count, classes = Counter(), Counter(), defaultdict(float)
    busy, until = 0, events[0][1] if events else 0
    for name, start, end in events:
        time[name] += end - start
        count[name] += 1
        busy, until = busy + max(0, end - max(start, until)), max(until, end)
    for name, spent in time.items():
        kind = program[name].kind if name in program else classify(name, "")
        classes[kind] += spent / steps / 1e6
    wall = (until - events[0][1]) if events else 0
    largest = [
        {
            "name": name,
            "class": program[name].kind if name in program else classify(name, ""),
            "ms": spent / steps / 1e6,
            "gb_per_s": program[name].bytes * count[name] / spent if name in program and spent else None,
        }
        for name, spent in time.most_common(20)
    ]
    return {"classes_ms": dict(classes), "gaps_ms": (wall - busy) / steps / 1e6, "largest": largest}


def kernel_table(found: dict[str, Any]) -> str:
    """What `summary` gives, as two Markdown tables."""
    classes = found["classes_ms"] | {"gaps": found["gaps_ms"]}
    total = sum(classes.values()) or 1.0
    lines = ["| class | ms per step | % |", "| --- | --- | --- |"]
    for kind, spent in sorted(classes.items(), key=lambda item: -item[1]):
        lines.append(f"| {kind} | {spent:.3f} | {100 * spent / total:.1f} |")
    lines += ["", "| kernel | class | ms per step | GB/s |", "| --- | --- | --- | --- |"]
    for one in found["largest"]:
        rate = "-" if one["gb_per_s"] is None else f"{one['gb_per_s']:,.0f}"
        lines.append(f"| {one['name']} | {one['class']} | {one['ms']:.3f} | {rate} |")
    return "\n".join(lines)
