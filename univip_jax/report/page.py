"""A run on one page: progress, warnings, curves and config, in one HTML file."""

import html
from pathlib import Path

from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole
from univip_jax.config import flatten
from univip_jax.evaluate.results import read_results
from univip_jax.report.charts import draw_lines
from univip_jax.report.curves import Drawn, draw_curves
from univip_jax.report.heat_maps import draw_plans
from univip_jax.report.judged import draw_judged
from univip_jax.report.learned import draw_learned
from univip_jax.report.log import read_log, total_steps
from univip_jax.report.markup import document, inline
from univip_jax.report.problems import goodput, warnings
from univip_jax.run.folder import read_config, read_photo_warnings
from univip_jax.run.log import FIRST_BATCH, duration
from univip_jax.run.plans import read_plans

PAGE = "report.html"
_RUN = """<progress value="{step}" max="{total}"></progress>
<p>{progress}</p>
{warnings}
<div class="charts">{charts}</div>
<p>The horizontal axis is the training step. Where points are dense, the line is their mean and the shade spans their
minimum and maximum.</p>
{plans}{judged}{learned}<h2>First batch</h2>
{first_batch}
<h2>Config</h2>
<details><summary>{num_fields} fields</summary><table>{config}</table></details>"""
_PLANS = """<h2>Transport plans</h2>
<p>How the instance term pairs the K crops of a photo, for {photos} photos of the first batch. Rows are the online
network's crops, columns the target's. A cell is the share of the photo's mass that pulls the one to the other, in
percent if K is at most 4; the darkest is 1/K or more. Healthy: the diagonal becomes dark, each crop is pulled to
itself. Where all cells are equal, the plan tells no crop from another. Without augmentation, by running statistics.</p>
{picture}
"""


def write_report(folder: Path, *, photos: int = 0) -> tuple[Path, list[str]]:
    """Writes `report.html` of a run, finished or not, or of a sweep of evaluations.

    Args:
      photos: of a pre-training run's data set, that are shown as the network sees them, on JAX's default device.

    Returns its path, and the warnings on it. Raises UserError if the folder is neither, or has no step yet.
    """
    results = read_results(folder) or {}
    body, found = (_sweep(results), []) if "runs" in results else _run(folder, photos)
    write_whole(folder / PAGE, document(str(folder), body))
    return folder / PAGE, found


def _sweep(results: dict) -> str:
    """The scores of a sweep over the checkpoints, a line per seed."""
    score, series = "map" if "map" in results else "top1", {}
    for one in results["runs"]:
        series.setdefault(f"seed {one['seed']}", []).append((one["step"], one[score]))
    title = f"{results['protocol']}: {score}, %"
    return inline(draw_lines(title, series), "svg+xml", title)


def _run(run: Path, photos: int) -> tuple[str, list[str]]:
    config, lines = read_config(run), read_log(run)
    newest = [line for line in lines if "train/epoch" in line][-1]
    total = total_steps(config, lines)
    picture = run / FIRST_BATCH
    plans, damage = _transport(run)
    learned, more = draw_learned(run, config, photos) if photos and config.task == "train" else ("", [])
    judged, wrong = draw_judged(run)
    found = read_photo_warnings(run) + warnings(run, lines, config, total) + damage + more + wrong
    fields = sorted(flatten(config).items())
    body = _RUN.format(
        step=newest["step"],
        total=total,
        progress=html.escape(_progress(run, config, lines, newest, total)),
        warnings="".join(f'<p class="warning">{html.escape(line)}</p>' for line in found),
        charts="".join(map(_figure, draw_curves(lines, config))),
        plans=plans,
        judged=judged,
        learned=learned,
        first_batch=inline(picture.read_bytes(), "png", "photos and their views") if picture.exists() else "none",
        num_fields=len(fields),
        config="".join(f"<tr><td>{html.escape(k)}<td>{html.escape(str(v))}" for k, v in fields),
    )
    return body, found


def _progress(run: Path, config: ConfigDict, lines: list[dict], newest: dict, total: int) -> str:
    step, rate = newest["step"], newest.get("train/images_per_second")
    parts = [f"Step {step} of {total} ({step / total:.0%}), epoch {newest['train/epoch']:.1f}."]
    if rate:
        parts.append(f"{rate:,.0f} images per second.")
        if step < total:
            parts.append(f"{duration((total - step) * config.batch_size / rate)} left at this rate, without saves.")
    top1 = {line["step"]: line["knn/top1"] for line in lines if "knn/top1" in line}
    if top1:
        best = max(top1, key=top1.get)
        parts.append(f"Best k-NN: {top1[best]:.1f} % at step {best}.")
    results = read_results(run) or {}
    if scores := [f"{kind} AP {results[kind]['AP']:.1f}" for kind in ("box", "mask") if kind in results]:
        parts.append(f"{', '.join(scores)} on {results['test']['set']}.")
    saved = sorted(int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdecimal())
    parts.append(f"Checkpoints: {', '.join(map(str, saved)) or 'none yet'}.")
    seconds = {kind: value for kind, value in goodput(newest).items() if value}
    shares = ", ".join(f"{kind} {value / sum(seconds.values()):.1%}" for kind, value in seconds.items())
    if seconds:
        parts.append(f"Goodput: how {duration(sum(seconds.values()))} were spent: {shares}.")
    return " ".join(parts)


def _figure(drawn: Drawn) -> str:
    note = f"<figcaption>{html.escape(drawn.note)}</figcaption>" if drawn.note else ""
    return f"<figure>{inline(drawn.svg, 'svg+xml', drawn.title)}{note}</figure>"


def _transport(run: Path) -> tuple[str, list[str]]:
    """The section with the transport plans, and what is wrong with their file."""
    try:
        found = read_plans(run)
    except UserError as error:
        return "", [f"No transport plans are drawn: {error}"]
    if not found:
        return "", []
    return _PLANS.format(picture=inline(draw_plans(found), "png", "transport plans"), photos=len(found.crops)), []
