"""What a run writes down: `metrics.jsonl`, TensorBoard events and one line of progress."""

import json
import math
import sys
import time
from pathlib import Path

from tensorboardX import SummaryWriter

METRICS = "metrics.jsonl"


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
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
            temporary.replace(self._path)
        self._file = self._path.open("a")
        self._events = SummaryWriter(str(run), purge_step=start + 1 if start else None)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One line of JSON and one point a curve, after `step` steps; without values that are not finite."""
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
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
        self._total, self._steps_per_epoch, self._batch_size = total, steps_per_epoch, batch_size
        self._step, self._time = start, time.perf_counter()

    def rate(self, step: int) -> float:
        """Images a second since the last call."""
        now = time.perf_counter()
        rate = (step - self._step) * self._batch_size / (now - self._time)
        self._step, self._time = step, now
        return rate

    def report(self, step: int, rate: float, metrics: dict[str, float]) -> None:
        """Prints the line."""
        terms = [f"{k.removeprefix('train/loss_')} {v:.3f}" for k, v in metrics.items() if "/loss_" in k]
        left = duration((self._total - step) * self._batch_size / rate)
        line = (
            f"step {step}/{self._total}  epoch {step / self._steps_per_epoch:.1f}  loss {metrics['train/loss']:.3f} "
            f"({', '.join(terms)})  {rate:.0f} images/s  {left} left"
        )
        end = "\r" if sys.stdout.isatty() and step < self._total else "\n"
        print(line.ljust(120) if end == "\r" else line, end=end, flush=True)
