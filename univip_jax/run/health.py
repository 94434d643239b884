"""The health of a run, which needs no label: steps that are not finite, alarms for collapsed features and for a plan
that stays near uniform.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping
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
from univip_jax.transport import least_iterations
from univip_jax.types import Batch, TrainState

BUNDLE = "not_finite.json"
_SPREAD_OVER = 1024  # photos: the singular values of more would take longer than many steps
_NEAR_UNIFORM = 0.25  # of the way to a diagonal plan; a gap of the cosines of about epsilon gives more
LEAST_STEPS = 100  # of a run that is judged: each network's first plans are near uniform, the first photos late
_LEAST_EPSILON = 0.01  # a plan that needs less tells noise apart


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
                    f"{self._folder / BUNDLE} names their photos and losses. Lower --config.optimizer.lr, raise "
                    "--config.optimizer.warmup_epochs or give --config.model.dtype=float32, in another --workdir"
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


def uniform_plan(
    newest: Mapping[str, float],
    *,
    total_steps: int,
    warmup_epochs: float,
    num_instances: int,
    epsilon: float,
    num_iters: int,
) -> str | None:
    """One line with the way out where the transport plan stays near uniform, a quarter of the run and its warm-up gone.

    Nothing is said before step 100.

    Args:
      newest: step, `train/epoch` and `losses.plan_metrics`, which a run without an instance term lacks.
      epsilon, num_iters: of `config.transport`.
    """
    uniform = 1 / max(num_instances, 1)
    least = uniform + _NEAR_UNIFORM * (1 - uniform) if num_instances > 1 else 0.0
    judged = newest["step"] >= max(total_steps / 4, LEAST_STEPS) and newest["train/epoch"] > warmup_epochs
    if not judged or not newest.get("plan/diagonal", least) < least:
        return None
    moved, same, other = (newest[f"plan/{name}"] for name in ("marginal_tv", "cosine_same", "cosine_other"))
    ways, smaller = [], float(f"{min(epsilon, same - other) / 2:.1g}")
    if 1 - moved < least:
        cause = f"its marginals alone move {moved:.0%} off it, whatever transport.epsilon is"
        ways.append("--config.transport.marginals=uniform")
    else:
        cause = (
            f"the cosines of an instance with itself ({same:.2f}) and with the others ({other:.2f}) are too near for "
            f"transport.epsilon={epsilon:g}"
        )
        if smaller >= _LEAST_EPSILON:
            iterations = max(num_iters, least_iterations(smaller))
            ways.append(f"--config.transport.epsilon={smaller:g} --config.transport.num_iters={iterations}")
    ways.append("--config.loss.instance=0")
    return (
        f"The transport plan stays near uniform, and pulls instances to each other: {newest['plan/diagonal']:.0%} of "
        f"its mass is on the diagonal (uniform: {uniform:.0%}, healthy: above 50%); {cause}. Train in another "
        f"--workdir with {', or with '.join(ways)}"
    )
