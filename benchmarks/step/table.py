"""Figures of the rounds: the table, the ratios and the goals."""

from statistics import median

from benchmarks.step.measure import Result

# Dense bfloat16 TFLOP/s in the makers' data sheets; the first name that starts the device's name counts.
PEAK_TFLOPS = {
    "NVIDIA B200": 2250.0,
    "NVIDIA H200": 989.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H100 NVL": 835.0,
    "NVIDIA H100": 989.0,
    "NVIDIA GH200": 989.0,
    "NVIDIA A100": 312.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA L4": 121.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,  # v5e
    "TPU v5": 459.0,  # v5p
    "TPU v6 lite": 918.0,
}
_COLUMNS = (
    *("program", "images/s", "spread, %", "ms per step", "TFLOP/s", "MFU, %", "program, GiB", "peak, GiB"),
    *("compile, s", "augmentation, %", "transport, %"),
)


def peak_tflops(device: str) -> float | None:
    """Peak of a device by its name in the frameworks; None if unknown."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if device.startswith(name)), None)


def seconds_per_step(result: Result) -> float:
    """Median of the rounds."""
    return median(seconds["step"] for seconds in result.rounds)


def images_per_second(result: Result) -> float:
    """Rate at the median of the rounds."""
    return result.program.batch_size / seconds_per_step(result)


def spread(values: list[float]) -> float:
    """Half the range over the median, percent."""
    return 100 * (max(values) - min(values)) / 2 / median(values)


def share(result: Result, part: str) -> float | None:
    """Time of `part` alone as percent of the step's; None if it was not timed."""
    if not result.rounds or part not in result.rounds[0]:
        return None
    return 100 * median(seconds[part] / seconds["step"] for seconds in result.rounds)


def ratio(first: Result | None, second: Result | None) -> float | None:
    """Median over the rounds of `first`'s seconds over `second`'s; None if either has no rounds."""
    if not (first and second and first.rounds and second.rounds):
        return None
    return median(a["step"] / b["step"] for a, b in zip(first.rounds, second.rounds, strict=True))


def find(results: list[Result], framework: str, method: str, batch_size: int, experiment: str = "") -> Result | None:
    """The result of a program; None if it was not run."""
    wanted = (framework, method, batch_size, experiment)
    for result in results:
        program = result.program
        if (program.framework, program.method, program.batch_size, program.experiment) == wanted:
            return result
    return None


def _cell(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def flops_per_image(result: Result, results: list[Result]) -> float | None:
    """FLOPs that XLA counts in JAX's step of the method, for PyTorch's step too: the work is the same."""
    program = result.program
    same = find(results, "jax", program.method, program.batch_size)
    return result.facts.get("flops_per_image") or (same and same.facts.get("flops_per_image"))


def _row(result: Result, results: list[Result], peak: float | None) -> list[str]:
    if result.failure:
        return [str(result.program), result.failure, *[""] * (len(_COLUMNS) - 2)]
    flops, facts = flops_per_image(result, results), result.facts
    tflops = flops and flops * images_per_second(result) / 1e12
    gib = [size and size / 2**30 for size in (facts.get("program_bytes"), result.peak_bytes)]
    return [
        str(result.program),
        _cell(images_per_second(result)),
        _cell(spread([seconds["step"] for seconds in result.rounds])),
        _cell(1000 * seconds_per_step(result)),
        _cell(tflops, 2),
        _cell(tflops and peak and 100 * tflops / peak),
        *(_cell(size, 2) for size in gib),
        _cell(facts["compile_seconds"]),
        _cell(share(result, "augmentation")),
        _cell(share(result, "transport")),
    ]


def markdown(results: list[Result], peak: float | None) -> str:
    """One row per program. `peak`: TFLOP/s of the device, for the model FLOP/s utilisation."""
    lines = [_COLUMNS, ["---"] * len(_COLUMNS), *(_row(result, results, peak) for result in results)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def comparisons(results: list[Result]) -> list[str]:
    """One line per pair of programs to compare, at each batch size."""
    lines = []
    for result in results:
        program = result.program
        key = (program.method, program.batch_size)
        if program.experiment:
            pair = "time, with / without", result, find(results, "jax", *key)
        elif program.framework == "torch":
            pair = "images/s, JAX / PyTorch", result, find(results, "jax", *key)
        elif program.method == "univip":
            pair = "time, UniVIP / BYOL", result, find(results, "jax", "byol", program.batch_size)
        else:
            continue
        what, first, second = pair
        value = ratio(first, second)
        if value is None:
            continue
        turns = "" if first.group == second.group else " (timed one after the other, not in turns)"
        lines.append(f"{what}: {program}: {value:.3f}{turns}")
    return lines


def goals(results: list[Result]) -> list[str]:
    """The goals for one H100 or H200, compared at the batch size where JAX's UniVIP is fastest."""
    timed = [
        r for r in results if r.rounds and r.program.framework == "jax" and r.program.method == "univip"
        and not r.program.experiment
    ]  # fmt: skip
    if not timed:
        return ["goals: JAX's UniVIP was not timed"]
    best = max(timed, key=images_per_second)
    if best.facts["device"] == "cpu":
        return ["goals: for one H100 or H200, not for a CPU"]
    card, rate = ("H200", 1500.0) if best.facts["device"].startswith("NVIDIA H200") else ("H100", 1250.0)
    batch_size = best.program.batch_size
    parts = [share(best, part) for part in ("augmentation", "transport")]
    found = (
        ("images/s", images_per_second(best), ">=", rate),
        ("images/s, JAX / PyTorch", ratio(find(results, "torch", "univip", batch_size), best), ">=", 1.0),
        ("time, UniVIP / BYOL", ratio(best, find(results, "jax", "byol", batch_size)), "<=", 1.4),
        ("augmentation and transport, %", None if None in parts else sum(parts), "<=", 5.0),
    )
    lines = [f"goals for one {card}, measured on {best.facts['device']} at batch {batch_size}"]
    for what, value, sign, goal in found:
        reached = value is not None and (value >= goal if sign == ">=" else value <= goal)
        verdict = "not measured" if value is None else "reached" if reached else "missed"
        lines.append(f"  {what} {sign} {goal:g}: {_cell(value, 2)}, {verdict}")
    return lines
