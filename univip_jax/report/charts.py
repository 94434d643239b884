"""Charts of metrics over steps."""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLORS = ("#4363d8", "#e6194b", "#2e8b57", "#f58231", "#911eb4", "#808080", "#469990", "#9a6324", "#bfa500")
_POINTS = 300  # per line, at most; a shade spans the minimum and maximum of the values behind each
Series = Mapping[str, Sequence[tuple[int, float]]]  # label to (step, value), ordered by step


class Level(NamedTuple):
    """A value to compare with."""

    label: str
    value: float


def draw_lines(title: str, series: Series, scale: str = "linear", level: Level | None = None) -> bytes:
    """An SVG of lines over steps, thinned if there are many points.

    Args:
        scale: linear, log, or from_zero (for values that only compare with zero, e.g. a collapse).
        level: drawn as a dashed line.
    """
    figure = Figure(figsize=(5.6, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5")
    axes.tick_params(which="both", labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for color, (label, points) in zip(COLORS, series.items(), strict=False):
        if not points:
            continue
        steps, means, least, most = thin(points)
        axes.fill_between(steps, least, most, color=color, alpha=0.2, linewidth=0)
        marker = "o" if len(points) < 30 else ""
        axes.plot(steps, means, label=label, color=color, linewidth=1.2, marker=marker, markersize=3)
    if level:
        axes.axhline(level.value, label=level.label, color="#444444", linewidth=1, linestyle="--")
    if scale == "log":
        axes.set_yscale("log")
    elif scale == "from_zero":
        axes.set_ylim(0, 1.05 * axes.dataLim.y1 or None)
    if len(series) > 1 or level:
        axes.legend(fontsize=8, edgecolor="none", ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def thin(points: Sequence[tuple[int, float]]) -> np.ndarray:
    """Mean step, mean, minimum and maximum [4, n] of n <= 300 groups of consecutive points."""
    steps, values = np.array(points, float).T
    groups = np.array_split(np.arange(len(points)), min(_POINTS, len(points)))
    found = [(steps[g].mean(), values[g].mean(), values[g].min(), values[g].max()) for g in groups]
    return np.array(found).T
