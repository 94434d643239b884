"""The log of a run: `metrics.jsonl`, TensorBoard events, the line of progress, evaluations."""

import json
import math
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter

from univip_jax.common import buckets
from univip_jax.common.files import write_whole
from univip_jax.run.clock import Clock, Puts
from univip_jax.run.health import is_finite
from univip_jax.run.setup import Run

METRICS, FIRST_BATCH = "metrics.jsonl", "first_batch.png"
TOP1 = "knn/top1"  # the metric that makes a checkpoint the best
_SILENT_SECONDS = (10, 600)  # without a line of progress: at the start, and at most
_SILENT_SHARE = 0.05  # in between: of the time since the start


class RunLog:
    """The log of a run that starts or resumes at step `start`. Lines of later steps, which are done again, are dropped.

    Every process has one, but only the first writes and prints: the others pass None as `folder`.
    """

    def __init__(self, folder: Path | None, start: int, run: Run, clock: Clock):
        self._writer = MetricsWriter(folder, start) if folder else None
        lines = read_metrics(folder) if folder else []
        self._progress = Progress(start, run, clock)
        self._clock, self._run, self._warned = clock, run, False
        self._top1 = {line["step"]: line[TOP1] for line in lines if TOP1 in line}
        self._trained = next((t for line in reversed(lines) if (t := line.get("goodput/train_seconds"))), 0.0)

    def train_from_now(self) -> None:
        """Clock and progress count the next steps."""
        self._clock.train_from_now(self._trained)
        self._progress.begin()

    def stepped(self, step: int, metrics: dict) -> None:
        """Prints a line of progress after the first step, and whenever none has come for long."""
        if self._writer and self._progress.is_due():
            self._progress.print(step, {name: float(value) for name, value in metrics.items()})

    def report(self, step: int, window: list[dict], spread: dict[str, float]) -> None:
        """Writes and prints the metrics of the steps since the last report, up to `step`, and the feature spread."""
        values, rate = _summarize(window), self._progress.rate(step)
        if self._writer:
            pace = {"train/epoch": step / self._run.steps_per_epoch, "train/images_per_second": rate}
            self._writer.write(step, {**values, **spread, **pace, **self._clock.write(now=False)})
            self._progress.print(step, values, rate)
            if spread:
                print(f"step {step}: {_named(spread)}", flush=True)
            self._warn({"step": step, **values, **pace})

    def _warn(self, newest: dict[str, float]) -> None:
        """Says once what goes wrong."""
        if not self._warned and (found := self._run.warning(newest)):
            print(f"step {newest['step']}: {found}", file=sys.stderr)
            self._warned = True

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Writes and prints the metrics of an evaluation after `step` steps."""
        self._top1[step] = metrics[TOP1]
        if self._writer:
            self._writer.write(step, metrics)
            self._writer.flush()
        print(f"step {step}: {_named(metrics)}; the best checkpoint is of step {self.best()}", flush=True)

    def flush(self) -> None:
        """What was reported is in the folder from now on; on a disk it was at once."""
        if self._writer:
            self._writer.flush()

    def is_evaluated(self, step: int) -> bool:
        """Whether the log holds an evaluation after `step` steps."""
        return step in self._top1

    def best(self) -> int | None:
        """The step of the best evaluation, the first of equals; None before any."""
        return max(self._top1, key=self._top1.get, default=None)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._writer:
            self._writer.close()


class MetricsWriter:
    """Appends to the files of a run's folder. Lines of steps after `start`, where the run resumes, are dropped.

    Objects of a bucket cannot grow: there the files lie on this machine, and are put whole now and then.
    """

    def __init__(self, folder: Path, start: int):
        self._folder, self._in_bucket, self._puts = folder, buckets.is_bucket(folder), Puts(folder)
        lines = [line for line in read_metrics(folder) if line["step"] <= start]
        self._local = folder
        if self._in_bucket:
            self._local = buckets.near(folder) / "log"
            shutil.rmtree(self._local, ignore_errors=True)  # of a process that was killed
            self._local.mkdir(parents=True)
        path = self._local / METRICS
        if self._in_bucket or path.exists():
            write_whole(path, "".join(f"{json.dumps(line)}\n" for line in lines))
        self._file = path.open("a")
        self._purge_step = start + 1 if start else None
        self._events: SummaryWriter | None = None  # it writes a file at once: not before there is a point

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One line of JSON and one point per curve, after `step` steps; values that are not finite are left out."""
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        if self._events is None:
            self._events = SummaryWriter(str(self._local), purge_step=self._purge_step)
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)
        if self._puts.due(False):
            self.flush()

    def flush(self) -> None:
        """Puts the files into the bucket, if that is where the folder is."""
        if self._in_bucket and self._puts.due(True):
            if self._events is not None:
                self._events.flush()
            for path in self._local.iterdir():
                buckets.put(self._folder / path.name, path)

    def close(self) -> None:
        """Flushes and closes both."""
        self.flush()
        self._file.close()
        if self._events is not None:
            self._events.close()


class Progress:
    """The line with the loss, images/s and the time left; on a terminal it overwrites itself."""

    def __init__(self, start: int, run: Run, clock: Clock):
        self._start, self._run, self._clock = start, run, clock

    def begin(self) -> None:
        """The next step is the first."""
        self._begun = time.perf_counter()
        self._printed: float | None = None
        self._step, self._stepping = self._start, self._clock.stepping()

    def is_due(self) -> bool:
        """Whether no line was printed for long: since ever, 10 s at the start, a growing time later."""
        now = time.perf_counter()
        least, most = _SILENT_SECONDS
        return self._printed is None or now - self._printed > min(most, max(least, _SILENT_SHARE * (now - self._begun)))

    def rate(self, step: int) -> float:
        """Images per second since the last call, while steps were done: neither saved nor evaluated."""
        stepping = self._clock.stepping()
        rate = self._rate(step, stepping)
        self._step, self._stepping = step, stepping
        return rate

    def print(self, step: int, metrics: dict[str, float], rate: float | None = None) -> None:
        """Prints the line. The time left includes saves and evaluations, as often as they came so far.

        `rate`: images per second; by default since the last call of `rate`.
        """
        self._printed = time.perf_counter()
        rate = self._rate(step, self._clock.stepping()) if rate is None else rate
        terms = [f"{k.removeprefix('train/loss_')} {v:.3f}" for k, v in metrics.items() if "/loss_" in k]
        total, spent = self._run.total_steps, self._printed - self._begun
        left = duration((total - step) * spent / (step - self._start))
        line = (
            f"step {step}/{total}  epoch {step / self._run.steps_per_epoch:.1f}  loss {metrics['train/loss']:.3f} "
            f"({', '.join(terms)})  {rate:.{1 if rate < 10 else 0}f} images/s  {left} left"
        )
        end = "\r" if sys.stdout.isatty() and step < total else "\n"
        print(line.ljust(120) if end == "\r" else line, end=end, flush=True)

    def _rate(self, step: int, stepping: float) -> float:
        return (step - self._step) * self._run.batch_size / max(1e-9, stepping - self._stepping)


def read_metrics(folder: Path) -> list[dict]:
    """The lines of a run's `metrics.jsonl`, without one that was cut off."""
    path = folder / METRICS
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if _step(line) < math.inf]


def duration(seconds: float) -> str:
    """`3 d 4 h`, `2 h 05 min`, `7 min 30 s` or `12 s`."""
    seconds = math.ceil(seconds)
    if seconds >= 86400:
        return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"


def _step(line: str) -> float:
    """The step of a line of metrics.jsonl; infinity for a line that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _named(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())


def _summarize(window: list[dict]) -> dict[str, float]:
    """Means of the losses over the finite steps since the last report, and the newest value of the rest."""
    newest = {name: float(value) for name, value in window[-1].items()}
    good = [metrics for metrics in window if is_finite(metrics)] or window
    losses = [name for name in newest if name.startswith("train/loss")]
    return newest | {name: float(np.mean([metrics[name] for metrics in good])) for name in losses}
