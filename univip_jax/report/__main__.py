"""A run on one page: how far it is, what is wrong with it, and its curves, in a file that needs no other.

    python -m univip_jax.report --run=DIR

Writes DIR/report.html. The run may go on meanwhile: the page is of the lines that were there.
"""

import base64
import html
import json
from datetime import UTC, datetime
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from univip_jax.common.cli import run as run_command
from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole
from univip_jax.config import flatten, read_config
from univip_jax.report.charts import draw_lines, draw_shares
from univip_jax.run.goodput import KINDS
from univip_jax.run.metrics import FIRST_BATCH, METRICS, duration, read_metrics
from univip_jax.run.monitor import BUNDLE

NAME = "univip_jax.report"
PAGE = "report.html"
# Below these, features tell photos hardly apart: 0 and 1 are collapse.
_LEAST_DEVIATION, _LEAST_RANK = 0.1, 4.0
_MOST_WAITING = 0.1  # of the steps' time, for the next batch
_MOST_LOST = 0.1  # of all time, for what interruptions undid
_BAD_STEPS = {"": "train/bad_steps"}
_CHARTS = (  # title, label and metric of each line, scale
    (
        "loss and its terms",
        {
            "loss": "train/loss",
            "scene": "train/loss_scene",
            "scene-instance": "train/loss_scene_instance",
            "instance": "train/loss_instance",
        },
        "linear",
    ),
    ("gradient norm", {"": "train/grad_norm"}, "log"),
    (
        "deviation of features (0 is collapse)",
        {"backbone": "features/deviation", "target projection": "train/feature_deviation"},
        "from_zero",
    ),
    (
        "effective rank of features (1 is collapse)",
        {"of the batch": "features/effective_rank", "of the labelled photos": "knn/effective_rank"},
        "from_zero",
    ),
    ("top-1 on labelled photos, %", {"k-NN": "knn/top1", "logistic probe": "probe/top1"}, "linear"),
    ("learning rate", {"": "train/learning_rate"}, "from_zero"),
    ("images a second", {"": "train/images_per_second"}, "from_zero"),
    ("steps that were not finite", _BAD_STEPS, "from_zero"),
)
_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>
body {{ font: 15px/1.5 sans-serif; color: #222; max-width: 1240px; margin: 2em auto; padding: 0 1em }}
img {{ max-width: 100% }} h2 {{ margin: 1.5em 0 .3em }} progress {{ width: 100%; height: 1.2em }}
.warning {{ background: #fff0f0; border-left: 4px solid #e6194b; padding: .3em 1em }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)) }}
td {{ padding: 0 1.5em 0 0; font: 13px monospace }}
</style></head><body>
<h1>{name}</h1>
<progress value="{step}" max="{total}"></progress>
<p>{progress}</p>
{warnings}
<div class="charts">{charts}</div>
<p>All curves are over steps; where points lie dense, a line is their mean, and its shade goes from the least to the
most.</p>
{goodput}
{first_batch}
<h2>Config</h2>
<details><summary>{num_fields} fields</summary><table>{config}</table></details>
<p>Written {now}.</p>
</body></html>
"""


def write_report(run: Path) -> Path:
    """Writes the page; returns its place. Raises UserError where `run` is no run, or has no step yet."""
    config, lines = read_config(run), read_metrics(run)
    steps = [line for line in lines if "train/epoch" in line]
    if not steps or "model" not in config:
        raise UserError(f"{run} holds no steps of a training in {METRICS}: name the --workdir of one that has begun")
    newest, total = steps[-1], total_steps(config, steps[-1])
    found = warnings(run, lines, config.batch_size)
    fields = sorted(flatten(config).items())
    page = _HTML.format(
        name=html.escape(str(run)),
        step=newest["step"],
        total=total,
        progress=html.escape(_progress(run, config, lines, newest, total)),
        warnings="".join(f'<p class="warning">{html.escape(line)}</p>' for line in found),
        charts="".join(_charts(lines)),
        goodput=_goodput(newest),
        first_batch=_first_batch(run / FIRST_BATCH),
        num_fields=len(fields),
        config="".join(f"<tr><td>{html.escape(k)}<td>{html.escape(str(v))}" for k, v in fields),
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    try:
        write_whole(run / PAGE, page)
    except OSError as error:
        raise UserError(
            f"{run / PAGE} cannot be written: {error.strerror}; free space or rights, then rerun"
        ) from error
    for line in found:
        print(f"warning: {line}")
    return run / PAGE


def total_steps(config: ConfigDict, line: dict) -> int:
    """The length of the run, by a line of its metrics."""
    if config.num_steps:
        return config.num_steps
    return round(config.num_epochs * line["step"] / line["train/epoch"])


def warnings(run: Path, lines: list[dict], batch_size: int) -> list[str]:
    """What is wrong with a run, each with the way out; nothing where all is well."""
    found = []
    newest = {name: value for line in lines for name, value in line.items()}
    if _ended_itself(run / BUNDLE, newest["step"]):
        found.append(
            f"The run has ended itself: too many steps in a row were not finite. {run / BUNDLE} names their photos "
            "and losses. Lower optimizer.lr, lengthen optimizer.warmup_epochs or set model.dtype=float32, in another "
            "folder."
        )
    elif bad := int(newest.get("train/bad_steps", 0)):
        found.append(
            f"{bad} steps were not finite, and nothing of them was kept. A few in a long run do no harm; where they "
            "become more, lower optimizer.lr."
        )
    # A batch of few photos has no higher rank.
    spread = {"deviation": _LEAST_DEVIATION, "effective_rank": min(_LEAST_RANK, batch_size / 4)}
    low = [name for name, least in spread.items() if newest.get(f"features/{name}", least) < least]
    if low:
        measured = ", ".join(f"{name.replace('_', ' ')} {newest[f'features/{name}']:.2g}" for name in low)
        found.append(
            f"The features have all but collapsed ({measured}). Unless they recover after the warm-up, lower "
            "optimizer.lr or raise ema.base."
        )
    seconds = {kind: newest.get(f"goodput/{kind}_seconds", 0.0) for kind in KINDS}
    stepping = seconds["data"] + seconds["train"]
    if stepping and seconds["data"] / stepping > _MOST_WAITING:
        found.append(
            f"{seconds['data'] / stepping:.0%} of the steps' time went by waiting for photos: give the run more cores "
            "(data.num_threads=0 uses all), a faster disk, or photos prepared at a smaller size."
        )
    if seconds["lost"] > _MOST_LOST * sum(seconds.values()):
        found.append(
            f"{seconds['lost'] / sum(seconds.values()):.0%} of the time was undone by interruptions: save more often "
            "(checkpoint_every_steps)."
        )
    for damaged in sorted((run / "checkpoints").glob("damaged-*")):
        found.append(f"{damaged} was damaged and set aside; the run went on from the one before. Look at the disk.")
    return found


def _ended_itself(bundle: Path, newest_step: int) -> bool:
    """Whether no step came after those that the bundle holds: the folder may have been gone on with."""
    try:
        return json.loads(bundle.read_text())["steps"][-1]["step"] >= newest_step
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return False


def _progress(run: Path, config: ConfigDict, lines: list[dict], newest: dict, total: int) -> str:
    step, rate = newest["step"], newest.get("train/images_per_second")
    said = [f"Step {step} of {total} ({step / total:.0%}), epoch {newest['train/epoch']:.1f}."]
    if rate:
        said.append(f"{rate:,.0f} images a second.")
        if step < total:
            said.append(f"{duration((total - step) * config.batch_size / rate)} left at this pace, saves not counted.")
    top1 = {line["step"]: line["knn/top1"] for line in lines if "knn/top1" in line}
    if top1:
        best = max(top1, key=top1.get)
        said.append(f"The best k-NN, {top1[best]:.1f} %, is of step {best}.")
    saved = sorted(int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdecimal())
    said.append(f"Checkpoints: {', '.join(map(str, saved)) or 'none yet'}.")
    return " ".join(said)


def _charts(lines: list[dict]) -> list[str]:
    drawn = []
    for title, metrics, scale in _CHARTS:
        series = {
            label: [(line["step"], line[name]) for line in lines if name in line] for label, name in metrics.items()
        }
        # What was not measured is no line, nor what never happened.
        series = {label: points for label, points in series.items() if points}
        if metrics == _BAD_STEPS and not any(value for _, value in series.get("", [])):
            continue
        if series:
            drawn.append(_inline(draw_lines(title, series, scale), "svg+xml", title))
    return drawn


def _goodput(newest: dict) -> str:
    seconds = {kind: newest.get(f"goodput/{kind}_seconds", 0.0) for kind in KINDS}
    total = sum(seconds.values())
    if not total:
        return ""
    shares = {kind: 100 * value / total for kind, value in seconds.items() if value}
    title = f"where {duration(total)} went"
    return _inline(draw_shares(title, shares), "svg+xml", title)


def _first_batch(path: Path) -> str:
    if not path.exists():
        return ""
    return f"<h2>First batch</h2>{_inline(path.read_bytes(), 'png', 'photos and their views')}"


def _inline(image: bytes, kind: str, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(image).decode()}">'


if __name__ == "__main__":
    run_command(
        NAME,
        lambda: flags.DEFINE_string("run", None, "The run's folder."),
        ("run",),
        lambda: print(write_report(Path(flags.FLAGS.run))),
        interrupted="nothing was written",
    )
