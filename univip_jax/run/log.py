"""What a run writes down as it goes: metrics, progress, evaluations, goodput; and what it wrote before."""

from pathlib import Path

import numpy as np

from univip_jax.evaluate.in_training import TOP1
from univip_jax.plan import Plan
from univip_jax.run.goodput import Goodput
from univip_jax.run.metrics import MetricsWriter, Progress, read_metrics
from univip_jax.run.monitor import is_finite


class RunLog:
    """The log of a run that goes on from `start`; lines of later steps, which are done again, are dropped."""

    def __init__(self, run: Path | None, start: int, plan: Plan, goodput: Goodput):
        """None writes nothing, as all processes but the first do."""
        self._progress = Progress(start, plan.total_steps, plan.steps_per_epoch, plan.batch_size)
        self._goodput, self._steps_per_epoch = goodput, plan.steps_per_epoch
        self._writer = MetricsWriter(run, start) if run else None
        lines = read_metrics(run) if run else []
        self._top1 = {line["step"]: line[TOP1] for line in lines if TOP1 in line}
        self._trained = next((t for line in reversed(lines) if (t := line.get("goodput/train_seconds"))), 0.0)

    def train_from_now(self) -> None:
        """The next steps are what progress and goodput count."""
        self._goodput.train_from_now(self._trained)
        self._progress.begin(self._goodput.stepping())

    def report(self, step: int, window: list[dict], spread: dict[str, float]) -> None:
        """Writes and prints the metrics of the steps since the last report, up to `step`, and of the features there."""
        values, rate = _summarize(window), self._progress.rate(step, self._goodput.stepping())
        if self._writer:
            pace = {"train/epoch": step / self._steps_per_epoch, "train/images_per_second": rate}
            self._writer.write(step, {**values, **spread, **pace, **self._goodput.write()})
            self._progress.report(step, rate, values)
            if spread:
                print(f"step {step}: {_named(spread)}", flush=True)

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Writes and prints the metrics of an evaluation after `step` steps."""
        self._top1[step] = metrics[TOP1]
        if self._writer:
            self._writer.write(step, metrics)
        print(f"step {step}: {_named(metrics)}; the best is of step {self.best()}", flush=True)

    def is_evaluated(self, step: int) -> bool:
        """Whether an evaluation after `step` steps is written down."""
        return step in self._top1

    def best(self) -> int | None:
        """The step of the best evaluation, the first of equals; None before any."""
        return max(self._top1, key=self._top1.get, default=None)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._writer:
            self._writer.close()


def _named(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())


def _summarize(window: list[dict]) -> dict[str, float]:
    """Means of the losses over the finite steps since the last report, and the newest of the rest."""
    newest = {name: float(value) for name, value in window[-1].items()}
    good = [metrics for metrics in window if is_finite(metrics)] or window
    losses = [name for name in newest if name.startswith("train/loss")]
    return newest | {name: float(np.mean([metrics[name] for metrics in good])) for name in losses}
