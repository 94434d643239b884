"""A run on one page: progress, warnings, curves and config, in one HTML file."""

import base64
import html
import json
from datetime import UTC, datetime
from pathlib import Path

from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole
from univip_jax.config import flatten, to_spec
from univip_jax.detection.schedule import ScheduleSpec
from univip_jax.evaluate.results import read_results
from univip_jax.report.charts import draw_lines
from univip_jax.report.curves import Drawn, draw_curves
from univip_jax.report.heat_maps import draw_plans
from univip_jax.run.clock import KINDS
from univip_jax.run.folder import read_config, read_photo_warnings
from univip_jax.run.health import BUNDLE, LEAST_STEPS, uniform_plan
from univip_jax.run.log import FIRST_BATCH, METRICS, duration, read_metrics
from univip_jax.run.plans import read_plans

PAGE = "report.html"
# Older versions logged these names.
_RENAMED = {"features/deviation": "features/std", "train/feature_deviation": "train/feature_std"}
# Warn below these: a std of 0 or a rank of 1 is collapse.
_LEAST_STD, _LEAST_RANK = 0.1, 4.0
_MOST_WAITING = 0.1  # for the next batch, as a share of the steps' time
_MOST_LOST = 0.1  # to interruptions, as a share of all time
_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>
body {{ font: 15px/1.5 sans-serif; color: #222; max-width: 1240px; margin: 2em auto; padding: 0 1em }}
img {{ max-width: 100% }} h2 {{ margin: 1.5em 0 .3em }} progress {{ width: 100%; height: 1.2em }}
.warning {{ background: #fff0f0; border-left: 4px solid #e6194b; padding: .3em 1em }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)) }}
figure {{ margin: 0 }} figcaption {{ font-size: 13px; color: #555; padding: 0 1em 1em }}
td {{ padding: 0 1.5em 0 0; font: 13px monospace }}
</style></head><body>
<h1>{name}</h1>
{body}
<p>Written {now}.</p>
</body></html>
"""
_RUN = """<progress value="{step}" max="{total}"></progress>
<p>{progress}</p>
{warnings}
<div class="charts">{charts}</div>
<p>The horizontal axis is the training step. Where points are dense, the line is their mean and the shade spans their
minimum and maximum.</p>
{plans}<h2>First batch</h2>
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


def write_report(folder: Path) -> tuple[Path, list[str]]:
    """Writes `report.html` of a run, finished or not, or of a sweep of evaluations.

    Returns its path, and the warnings on it. Raises UserError if the folder is neither, or has no step yet.
    """
    results = read_results(folder) or {}
    body, found = (_sweep(results), []) if "runs" in results else _run(folder)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    write_whole(folder / PAGE, _HTML.format(name=html.escape(str(folder)), body=body, now=now))
    return folder / PAGE, found


def _sweep(results: dict) -> str:
    """The scores of a sweep over the checkpoints, a line per seed."""
    score, series = "map" if "map" in results else "top1", {}
    for one in results["runs"]:
        series.setdefault(f"seed {one['seed']}", []).append((one["step"], one[score]))
    title = f"{results['protocol']}: {score}, %"
    return _inline(draw_lines(title, series), "svg+xml", title)


def _run(run: Path) -> tuple[str, list[str]]:
    config, lines = read_config(run), read_metrics(run)
    lines = [{_RENAMED.get(name, name): value for name, value in line.items()} for line in lines]
    steps = [line for line in lines if "train/epoch" in line]
    if not steps or "model" not in config:
        raise UserError(f"{run} has no training steps in {METRICS}: name the --workdir of a training that has begun")
    newest = steps[-1]
    total = _total_steps(config, newest)
    picture = run / FIRST_BATCH
    plans, damage = _transport(run)
    found = read_photo_warnings(run) + warnings(run, lines, config, total) + damage
    fields = sorted(flatten(config).items())
    body = _RUN.format(
        step=newest["step"],
        total=total,
        progress=html.escape(_progress(run, config, lines, newest, total)),
        warnings="".join(f'<p class="warning">{html.escape(line)}</p>' for line in found),
        charts="".join(map(_figure, draw_curves(lines, config))),
        plans=plans,
        first_batch=_inline(picture.read_bytes(), "png", "photos and their views") if picture.exists() else "none",
        num_fields=len(fields),
        config="".join(f"<tr><td>{html.escape(k)}<td>{html.escape(str(v))}" for k, v in fields),
    )
    return body, found


def _total_steps(config: ConfigDict, newest: dict) -> int:
    if config.task == "detection":
        schedule = to_spec(ScheduleSpec, config, "schedule")
        return schedule.scaled(schedule.steps, config.batch_size)
    return config.num_steps or round(config.num_epochs * newest["step"] / newest["train/epoch"])


def warnings(run: Path, lines: list[dict], config: ConfigDict, total: int) -> list[str]:
    """One line per problem of a run, with the way out."""
    found, detects = [], config.task == "detection"
    newest = {name: value for line in lines for name, value in line.items()}
    rate, warmup, dtype = (
        ("schedule.lr", "schedule.warmup_steps", "dtype")
        if detects
        else ("optimizer.lr", "optimizer.warmup_epochs", "model.dtype")
    )
    if _ended_itself(run / BUNDLE, newest["step"]):
        found.append(
            f"The run gave up: too many steps in a row were not finite. {run / BUNDLE} names their photos and losses. "
            f"Start again in another folder with a lower {rate}, a longer {warmup} or {dtype}=float32."
        )
    elif bad := int(newest.get("train/bad_steps", 0)):
        found.append(
            f"{bad} steps were not finite and were skipped. A few in a long run do no harm; if they become more, lower "
            f"{rate}."
        )
    # The rank of a batch is at most its size.
    least_of = {"std": _LEAST_STD, "effective_rank": min(_LEAST_RANK, config.batch_size / 4)}
    low = [name for name, least in least_of.items() if newest.get(f"features/{name}", least) < least]
    if low:
        measured = ", ".join(f"{name.replace('_', ' ')} {newest[f'features/{name}']:.2g}" for name in low)
        found.append(
            f"The features have nearly collapsed ({measured}). If they do not recover after the warm-up, lower "
            "optimizer.lr or raise ema.base."
        )
    near_uniform = not detects and uniform_plan(
        newest,
        total_steps=total,
        warmup_epochs=config.optimizer.warmup_epochs,
        num_instances=config.views.num_instances,
        epsilon=config.transport.epsilon,
        num_iters=config.transport.num_iters,
    )
    if near_uniform:
        found.append(near_uniform)
    seconds = _goodput(newest)
    stepping = seconds["data"] + seconds["train"]
    if newest["step"] >= LEAST_STEPS and seconds["data"] > _MOST_WAITING * stepping:
        found.append(
            f"The steps waited for photos during {seconds['data'] / stepping:.0%} of their time: give the run more "
            "cores (data.num_threads=0 uses all) or a faster disk, or prepare the photos at a smaller size."
        )
    if seconds["lost"] > _MOST_LOST * sum(seconds.values()):
        found.append(
            f"Interruptions undid {seconds['lost'] / sum(seconds.values()):.0%} of the time: save more often "
            "(checkpoint_every_steps)."
        )
    for damaged in sorted((run / "checkpoints").glob("damaged-*")):
        found.append(f"{damaged} was damaged and quarantined; the run resumed from an older one. Check the disk.")
    return found


def _ended_itself(bundle: Path, newest_step: int) -> bool:
    """Whether the run ended with the steps in the bundle; it may have been resumed since."""
    try:
        return json.loads(bundle.read_text())["steps"][-1]["step"] >= newest_step
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return False


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
    seconds = {kind: value for kind, value in _goodput(newest).items() if value}
    shares = ", ".join(f"{kind} {value / sum(seconds.values()):.1%}" for kind, value in seconds.items())
    if seconds:
        parts.append(f"Goodput: how {duration(sum(seconds.values()))} were spent: {shares}.")
    return " ".join(parts)


def _figure(drawn: Drawn) -> str:
    note = f"<figcaption>{html.escape(drawn.note)}</figcaption>" if drawn.note else ""
    return f"<figure>{_inline(drawn.svg, 'svg+xml', drawn.title)}{note}</figure>"


def _transport(run: Path) -> tuple[str, list[str]]:
    """The section with the transport plans, and what is wrong with their file."""
    try:
        found = read_plans(run)
    except UserError as error:
        return "", [f"No transport plans are drawn: {error}"]
    if not found:
        return "", []
    return _PLANS.format(picture=_inline(draw_plans(found), "png", "transport plans"), photos=len(found.crops)), []


def _goodput(line: dict) -> dict[str, float]:
    """Seconds spent on each kind of work, over all attempts."""
    return {kind: line.get(f"goodput/{kind}_seconds", 0.0) for kind in KINDS}


def _inline(image: bytes, kind: str, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(image).decode()}">'
