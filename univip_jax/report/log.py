"""The metrics of a run, as a page needs them."""

from pathlib import Path

from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.config import to_spec
from univip_jax.detection.schedule import ScheduleSpec
from univip_jax.run.folder import read_config
from univip_jax.run.log import METRICS, read_metrics

# Older versions logged these names.
_RENAMED = {"features/deviation": "features/std", "train/feature_deviation": "train/feature_std"}


def read_log(run: Path) -> list[dict]:
    """The lines of `metrics.jsonl`, by today's names. Raises UserError where there is no training step among them."""
    lines = [{_RENAMED.get(name, name): value for name, value in line.items()} for line in read_metrics(run)]
    if not any("train/epoch" in line for line in lines) or "model" not in read_config(run):
        raise UserError(f"{run} has no training steps in {METRICS}: name the --workdir of a training that has begun")
    return lines


def total_steps(config: ConfigDict, lines: list[dict]) -> int:
    """The steps of the whole run."""
    if config.task == "detection":
        schedule = to_spec(ScheduleSpec, config, "schedule")
        return schedule.scaled(schedule.steps, config.batch_size)
    newest = [line for line in lines if "train/epoch" in line][-1]
    return config.num_steps or round(config.num_epochs * newest["step"] / newest["train/epoch"])
