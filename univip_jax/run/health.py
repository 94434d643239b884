"""The health of a run, which needs no label: steps that are not finite, and two alarms for a collapse of features."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from univip_jax.augment import normalize_pixels
from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole
from univip_jax.models.univip import ModelSpec, make_backbone
from univip_jax.sharding import by_batch, replicated
from univip_jax.train_step import feature_std
from univip_jax.types import Batch, TrainState

BUNDLE = "not_finite.json"
_SPREAD_OVER = 1024  # photos: the singular values of more would take longer than many steps


def effective_rank(features: Float[np.ndarray, "N F"]) -> float:
    """RankMe (Garrido et al. 2023): exp of the entropy of the singular values. 1 is collapse; NaN: not finite."""
    if not np.isfinite(features).all():
        return float("nan")
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    share = values / max(values.sum(), 1e-300) + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))


def make_spread(model: ModelSpec, mesh: Mesh) -> Callable[[TrainState, Batch], dict[str, float]]:
    """Returns a function of (state, batch): the spread of the features of the batch's first scenes.

    In float32, by running statistics. `features/effective_rank` is `effective_rank` of at most 1,024 photos,
    `features/std` is `feature_std`; 1 and 0 are collapse. All processes must call it.
    """
    backbone = make_backbone(replace(model, dtype="float32"))
    photos = max(1, _SPREAD_OVER // mesh.size) * mesh.size

    def features(variables, scenes):
        # The first photos lie on the first devices; all shall share the work.
        scenes = jax.lax.with_sharding_constraint(scenes[:photos, 0], by_batch(mesh))
        return backbone.apply(variables, normalize_pixels(scenes), train=False)

    jitted = jax.jit(features, out_shardings=replicated(mesh))

    def spread(state: TrainState, batch: Batch) -> dict[str, float]:
        found = jitted(backbone_variables(state), batch.scenes)
        return {
            "features/effective_rank": effective_rank(np.asarray(found)),
            "features/std": float(feature_std(found)),
        }

    return spread


def backbone_variables(state: TrainState) -> dict:
    """Parameters and running statistics of the online backbone, as Flax applies them."""
    return {
        "params": state.params["encoder"]["backbone"],
        "batch_stats": state.batch_stats["encoder"]["backbone"],
    }


def is_finite(metrics: dict) -> bool:
    """Whether a step changed the state: its loss and its gradient's norm are numbers."""
    return math.isfinite(metrics["train/loss"]) and math.isfinite(metrics["train/grad_norm"])


class BadSteps:
    """Names each step that is not finite, whose update the state skipped, and ends the run at `limit` in a row."""

    def __init__(self, limit: int, folder: Path, photo_ids: Callable[[int], list[str]]):
        """`photo_ids` names the photos of a step's batch; `folder` takes the bundle."""
        self._limit, self._folder, self._photo_ids = limit, folder, photo_ids
        self._row: list[tuple[int, dict]] = []

    def check(self, window: list[dict], first_step: int, primary: bool) -> None:
        """Checks the metrics of consecutive steps, the first of them `first_step`, counted from 0.

        Raises:
          UserError: `limit` steps in a row were not finite; `not_finite.json` holds the photos and losses of each.
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
                    f"{self._folder / BUNDLE} names their photos and losses. Lower optimizer.lr, lengthen "
                    "optimizer.warmup_epochs or set model.dtype=float32, in another --workdir"
                )
            if primary:
                print(
                    f"step {step} is not finite: {what}; the update was skipped ({len(self._row)} in a row, "
                    f"the run ends at max_bad_steps={self._limit})",
                    file=sys.stderr,
                )

    def _write_bundle(self) -> None:
        """All that these steps were computed from: a batch is a function of its step, and the state did not change."""
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
        write_whole(self._folder / BUNDLE, json.dumps({"steps": steps}, indent=2) + "\n")
