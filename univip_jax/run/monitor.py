"""The health of a run: steps that are not finite, and when they are too many."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

from univip_jax.common.errors import UserError

BUNDLE = "not_finite.json"


def is_finite(metrics: dict) -> bool:
    """Whether a step was kept: its loss and its gradient's norm are numbers."""
    return math.isfinite(metrics["train/loss"]) and math.isfinite(metrics["train/grad_norm"])


class BadSteps:
    """Names each step that is not finite, of which the state kept nothing, and ends the run at `limit` in a row."""

    def __init__(self, limit: int, run: Path, photo_ids: Callable[[int], list[str]]):
        """`photo_ids` names the photos of a step's batch; `run` takes the bundle."""
        self._limit, self._run, self._photo_ids = limit, run, photo_ids
        self._row: list[tuple[int, dict]] = []

    def check(self, window: list[dict], first_step: int, primary: bool) -> None:
        """Looks at the metrics of consecutive steps, the first of them `first_step`, counted from 0.

        Raises:
          UserError: `limit` steps in a row were not finite; `not_finite.json` holds each one's photos and losses.
        """
        for step, metrics in enumerate(window, start=first_step):
            if is_finite(metrics):
                self._row = []
                continue
            self._row.append((step, metrics))
            what = f"loss {metrics['train/loss']}, gradient norm {metrics['train/grad_norm']}"
            if len(self._row) >= self._limit:
                if primary:
                    self._write_bundle()
                raise UserError(
                    f"step {step} is not finite: {what}; it is the last of {len(self._row)} in a row, and "
                    f"{self._run / BUNDLE} names their photos and losses. Lower optimizer.lr, lengthen "
                    "optimizer.warmup_epochs or set model.dtype=float32, in another --workdir"
                )
            if primary:
                print(
                    f"step {step} is not finite: {what}; nothing of it was kept ({len(self._row)} in a row, "
                    f"the run ends at max_bad_steps={self._limit})",
                    file=sys.stderr,
                )

    def _write_bundle(self) -> None:
        """What these steps are computed from: batches are functions of their step, and the state did not change."""
        steps = [
            {
                "step": step,
                "photos": self._photo_ids(step),
                # JSON knows no nan.
                "metrics": {
                    name: float(value) if math.isfinite(value) else str(value) for name, value in values.items()
                },
            }
            for step, values in self._row
        ]
        (self._run / BUNDLE).write_text(json.dumps({"steps": steps}, indent=2) + "\n")
