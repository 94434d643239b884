"""The transport plans of a few photos at three moments of a run, as heat maps between their crops."""

import io

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from univip_jax.run.plans import TransportPlans

_SIDE = 2.3  # inches of a map with its crops
_NUMBERED = 4  # K up to which cells hold their numbers


def three_moments(steps: Int[np.ndarray, " n"]) -> list[int]:
    """The places of the earliest, the middle and the newest of rising steps; fewer where there are fewer."""
    middle = int(np.argmin(np.abs(steps - (steps[0] + steps[-1]) / 2)))
    return sorted({0, middle, len(steps) - 1})


def draw_plans(found: TransportPlans) -> bytes:
    """A PNG: a row for each photo, a heat map for each moment."""
    moments, photos = three_moments(found.steps), len(found.crops)
    figure = Figure(figsize=(_SIDE * len(moments), _SIDE * photos + 0.2), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.08)
    cells = figure.subplots(photos, len(moments), squeeze=False)
    for (photo, column), axes in np.ndenumerate(cells):
        plan = found.plans[moments[column], photo]
        share = plan / plan.sum()
        _draw_plan(axes, found.crops[photo], share)
        title = f"{np.trace(share):.0%} on the diagonal"
        axes.set_title(f"step {found.steps[moments[column]]}\n{title}" if photo == 0 else title, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_plan(axes: Axes, crops: UInt8[np.ndarray, "K I I 3"], share: Float[np.ndarray, "K K"]) -> None:
    """Cells of side 1, the first at (0, 0); above and left of them the crops."""
    count = len(share)
    axes.set_axis_off()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1 / count, extent=(0, count, count, 0))
    axes.imshow(np.concatenate(crops, axis=1), extent=(0, count, -0.05, -1.05))
    axes.imshow(np.concatenate(crops, axis=0), extent=(-1.05, -0.05, count, 0))
    edges = np.arange(count + 1)
    axes.hlines(edges, -1.05, count, color="white", linewidth=1.5)
    axes.vlines(edges, -1.05, count, color="white", linewidth=1.5)
    axes.set(xlim=(-1.1, count + 0.02), ylim=(count + 0.02, -1.1))
    if count <= _NUMBERED:
        for (row, column), value in np.ndenumerate(share):
            color = "white" if value * count > 0.6 else "#222222"
            axes.text(column + 0.5, row + 0.5, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=color)
    axes.text(-0.1, -0.8, "target \N{RIGHTWARDS ARROW}", ha="right", va="center", fontsize=6)
    axes.text(-0.58, -0.3, "online \N{DOWNWARDS ARROW}", ha="center", va="center", fontsize=6)
