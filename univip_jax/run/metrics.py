"""What a run writes down: `metrics.jsonl`, TensorBoard events and one line of progress."""

import json
import math
import sys
import time
from pathlib import Path

from tensorboardX import SummaryWriter

from univip_jax.common.files import write_whole

METRICS, FIRST_BATCH = "metrics.jsonl", "first_batch.png"


def duration(seconds: float) -> str:
    """`3 d 4 h`, `2 h 05 min`, `7 min 30 s` or `12 s`."""
    seconds = math.ceil(seconds)
    if seconds >= 86400:
        return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"


def read_metrics(run: Path) -> list[dict]:
    """The lines of a run's `metrics.jsonl`, without one that was cut off."""
    path = run / METRICS
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if _step(line) < math.inf]


class MetricsWriter:
    """Appends to the files of a run's folder. `start` is the step the run goes on from: later lines are dropped."""

    def __init__(self, run: Path, start: int):
        self._path = run / METRICS
        if self._path.exists():
            kept = [line for line in read_metrics(run) if line["step"] <= start]
            write_whole(self._path, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._file = self._path.open("a")
        self._run, self._purge_step = run, start + 1 if start else None
        self._events: SummaryWriter | None = None  # its file is there as soon as it is: not before there is a point

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One line of JSON and one point a curve, after `step` steps; without values that are not finite."""
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        if self._events is None:
            self._events = SummaryWriter(str(self._run), purge_step=self._purge_step)
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def _step(line: str) -> float:
    """The step of a line of metrics.jsonl; infinity for a line that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class Progress:
    """One line a report with the loss, images/s and the time left; on a terminal it overwrites itself."""

    def __init__(self, start: int, total: int, steps_per_epoch: int, batch_size: int):
        self._start, self._total = start, total
        self._steps_per_epoch, self._batch_size = steps_per_epoch, batch_size

    def begin(self, stepping: float) -> None:
        """The step after the start begins; `stepping`: seconds that were spent on steps before, as for `rate`."""
        self._begun = time.perf_counter()
        self._step, self._stepping = self._start, stepping

    def rate(self, step: int, stepping: float) -> float:
        """Images a second since the last call, while steps were done: neither saved nor evaluated."""
        rate = (step - self._step) * self._batch_size / max(1e-9, stepping - self._stepping)
        self._step, self._stepping = step, stepping
        return rate

    def report(self, step: int, rate: float, metrics: dict[str, float]) -> None:
        """Prints the line; the time left is with saves and evaluations, as often as they came so far."""
        terms = [f"{k.removeprefix('train/loss_')} {v:.3f}" for k, v in metrics.items() if "/loss_" in k]
        spent = time.perf_counter() - self._begun
        left = duration((self._total - step) * spent / (step - self._start))
        line = (
            f"step {step}/{self._total}  epoch {step / self._steps_per_epoch:.1f}  loss {metrics['train/loss']:.3f} "
            f"({', '.join(terms)})  {rate:.0f} images/s  {left} left"
        )
        end = "\r" if sys.stdout.isatty() and step < self._total else "\n"
        print(line.ljust(120) if end == "\r" else line, end=end, flush=True)
