"""What is wrong with a run, by its log: a line for each problem, with the way out."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from univip_jax.run.clock import KINDS
from univip_jax.run.health import BUNDLE, LEAST_STEPS, uniform_plan

# Warn below these: a std of 0 or a rank of 1 is collapse.
_LEAST_STD, _LEAST_RANK = 0.1, 4.0
_MOST_WAITING = 0.1  # for the next batch, as a share of the steps' time
_MOST_LOST = 0.1  # to interruptions, as a share of all time


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
            f"The features have nearly collapsed ({measured}). If they do not recover after the warm-up, train in "
            f"another --workdir with a lower rate, --config.optimizer.lr={config.optimizer.lr / 2:g}, or a slower "
            f"target, --config.ema.base={(1 + config.ema.base) / 2:g}"
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
    seconds = goodput(newest)
    stepping = seconds["data"] + seconds["train"]
    if newest["step"] >= LEAST_STEPS and seconds["data"] > _MOST_WAITING * stepping:
        found.append(
            f"The run is starved for input: its steps waited for photos during {seconds['data'] / stepping:.0%} of "
            "their time: give it more cores (--config.data.num_threads=0 uses all) or a faster disk"
            + ("" if detects else ", or prepare the photos at a smaller size (python -m data_prep --max_side=640)")
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


def goodput(line: dict) -> dict[str, float]:
    """Seconds spent on each kind of work, over all attempts."""
    return {kind: line.get(f"goodput/{kind}_seconds", 0.0) for kind in KINDS}
