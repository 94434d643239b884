"""Runs side by side on one page: curves on one axis, results, and where the configs differ."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole
from univip_jax.config import flatten
from univip_jax.evaluate.before_after import BEFORE_AFTER, NAMES
from univip_jax.evaluate.results import read_results
from univip_jax.report.charts import COLORS
from univip_jax.report.curves import draw_compared
from univip_jax.report.log import read_log, total_steps
from univip_jax.report.markup import document, inline
from univip_jax.run.folder import read_config

PAGE = "compare.html"
_BODY = """<p>{runs}</p>
<h2>Results</h2>
<table>{results}</table>
<p>Measured while training, unless before_after.json or results.json of a run say more; a dash: not measured. Runs are
comparable in k-NN and probe only on the same labelled photos, and in effective rank only at the same batch size.</p>
<h2>Curves</h2>
<div class=charts>{charts}</div>
<h2>Differences of the configs</h2>
{configs}"""


def write_comparison(runs: Sequence[Path], out: Path) -> Path:
    """Writes a page of two runs or more, finished or not, to `out`.

    Raises UserError: a run is none, or has no step yet, or two are one, or they are more than there are colours.
    """
    names = _names(runs)
    if len(runs) > len(COLORS):
        raise UserError(f"{len(runs)} runs are more than a chart has colours: give --run at most {len(COLORS)} times")
    configs, logs = [read_config(run) for run in runs], [read_log(run) for run in runs]
    curves = draw_compared(dict(zip(names, logs, strict=True)), configs[0])
    results = [_results(*of_run) for of_run in zip(runs, configs, logs, strict=True)]
    fields = [flatten(config) for config in configs]
    body = _BODY.format(
        runs=" &middot; ".join(
            f'<b style="color:{color}">{html.escape(name)}</b> {html.escape(str(run))}'
            for name, run, color in zip(names, runs, COLORS, strict=False)
        ),
        results=_table(names, results),
        charts="".join(f"<figure>{inline(one.svg, 'svg+xml', one.title)}</figure>" for one in curves),
        configs=f"<table>{table}</table>" if (table := _table(names, fields, differing=True)) else "<p>None.</p>",
    )
    write_whole(out, document(" and ".join(names), body))
    return out


def _names(runs: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    paths = [run.resolve().parts for run in runs]
    if len(set(paths)) < len(paths):
        raise UserError(f"a run is named twice among {', '.join(map(str, runs))}: give each --run once")
    names = [path[-1] for path in paths]
    depth = 1
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(path[-depth:]) for path in paths]
    return names


def _results(run: Path, config: Any, lines: list[dict]) -> dict[str, str]:
    """What is known of a run, in words: its length, its newest and best measures."""
    newest = {name: value for line in lines for name, value in line.items()}
    found = {
        "step": f"{newest['step']} of {total_steps(config, lines)}",
        "epoch": f"{newest['train/epoch']:.1f}",
        "images per second": f"{newest['train/images_per_second']:,.1f}",
        "loss": f"{newest['train/loss']:.3f}",
    }
    for title, name in {"k-NN top-1, %": "knn/top1", "logistic probe top-1, %": "probe/top1"}.items():
        values = {line["step"]: line[name] for line in lines if name in line}
        if values:
            best = max(values, key=values.get)
            found[title] = f"{values[max(values)]:.1f} (best: {values[best]:.1f} at step {best})"
    for title, name in {"effective rank": "features/effective_rank", "std of features": "features/std"}.items():
        if name in newest:
            found[title] = f"{newest[name]:.3g}"
    if judged := read_results(run, BEFORE_AFTER):
        for kind, title in NAMES.items():
            before, after = (judged[kind][side]["top1"] for side in ("before", "after"))
            found[f"{title}, before -> after, %"] = f"{before:.1f} -> {after:.1f} ({judged[kind]['verdict']})"
    numbers = _numbers(read_results(run) or {})
    return found | {f"results.json: {name}": f"{value:.4g}" for name, value in numbers.items()}


def _numbers(results: dict, above: str = "") -> dict[str, float]:
    """Dotted names to the numbers of nested objects."""
    found = {}
    for name, value in results.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{above}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{above}{name}"] = value
    return found


def _table(names: Sequence[str], columns: Sequence[dict[str, Any]], differing: bool = False) -> str:
    """A row for each key of any column, or for those whose values differ; empty where there is none."""
    keys = list(dict.fromkeys(key for column in columns for key in column))
    if differing:
        keys = [key for key in sorted(keys) if any(column.get(key) != columns[0].get(key) for column in columns)]
    if not keys:
        return ""
    rows = [["", *names], *([key, *(str(column.get(key, "-")) for column in columns)] for key in keys)]
    return "".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in rows)
