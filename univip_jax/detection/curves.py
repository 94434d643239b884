"""Precision over recall as SVG."""

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 420, 260, 44, 30, 36  # px
_LEGEND = 190
_MEAN, _BEST, _WORST = "#222222", ("#2e8b57", "#469990", "#4363d8"), ("#e6194b", "#f58231", "#911eb4")


class Line(NamedTuple):
    """A curve; `values` at recalls evenly spaced over 0 to 1."""

    label: str
    color: str
    values: Float[np.ndarray, " R"]


def precision_lines(precision: Float[np.ndarray, "R K"], names: Sequence[str], counts: Sequence[int]) -> list[Line]:
    """The mean over the classes that have objects; of the half with the most, the three best and worst by AP."""
    known = [place for place in range(len(names)) if precision[0, place] > -1]
    if not known:
        return []
    common = sorted(known, key=lambda place: -counts[place])[: max(6, len(known) // 2)]
    order = sorted(common, key=lambda place: -precision[:, place].mean())
    best, worst = order[:3], [place for place in order[-3:] if place not in order[:3]]
    lines = [Line(f"mean of {len(known)} classes", _MEAN, precision[:, known].mean(1))] if len(known) > 1 else []
    for places, colors in ((best, _BEST), (worst, _WORST)):
        lines += [Line(names[at], color, precision[:, at]) for at, color in zip(places, colors, strict=False)]
    return lines


def draw_precision(title: str, lines: Sequence[Line]) -> str:
    """An SVG with precision in percent over recall in percent; a label carries its curve's mean, its AP."""
    width, height = _WIDTH - _LEFT - 10, _HEIGHT - _TOP - _BOTTOM
    parts = [f'<text x="{_LEFT}" y="18" font-size="14">{html.escape(title)}</text>']
    for percent in range(0, 101, 25):
        x, y = _LEFT + width * percent / 100, _TOP + height * (1 - percent / 100)
        parts.append(f'<path d="M{_LEFT} {y}h{width}M{x} {_TOP}v{height}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{percent}</text>')
        parts.append(f'<text x="{x}" y="{_TOP + height + 15}" text-anchor="middle">{percent}</text>')
    parts.append(f'<text x="{_LEFT + width / 2}" y="{_HEIGHT - 4}" text-anchor="middle">recall, %</text>')
    middle = _TOP + height / 2
    turned = f'transform="rotate(-90 12 {middle})" x="12" y="{middle}" text-anchor="middle"'
    parts.append(f"<text {turned}>precision, %</text>")
    for number, line in enumerate(lines):
        xs = _LEFT + width * np.linspace(0, 1, len(line.values))
        ys = _TOP + height * (1 - line.values)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        stroke = 2.5 if line.color == _MEAN else 1.4
        parts.append(f'<polyline points="{points}" fill="none" stroke="{line.color}" stroke-width="{stroke}"/>')
        x, y = _WIDTH + 4, _TOP + 14 + 18 * number
        parts.append(f'<path d="M{x} {y - 4}h18" stroke="{line.color}" stroke-width="{stroke}"/>')
        parts.append(f'<text x="{x + 24}" y="{y}">{html.escape(line.label[:22])} {100 * line.values.mean():.1f}</text>')
    return (
        f'<svg viewBox="0 0 {_WIDTH + _LEGEND} {_HEIGHT}" width="{_WIDTH + _LEGEND}" font-family="sans-serif" '
        f'font-size="12" fill="#222">{"".join(parts)}</svg>'
    )
