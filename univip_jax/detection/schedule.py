"""Detectron2's optimizer and schedule, for any batch: equal in photos, with a rate that grows with the batch."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from univip_jax.common.errors import UserError

BATCH = 16  # of Detectron2's schedules
# Steps at a batch of 16, and the two at which the rate falls to a tenth.
SCHEDULES = {
    "1x": (90_000, 60_000, 80_000),
    "2x": (180_000, 120_000, 160_000),
    "6x": (540_000, 480_000, 520_000),
}
_WARMUP_START = 1e-3  # of the rate


@dataclass(frozen=True)
class ScheduleSpec:
    """`config.schedule` of a detector. Steps and `lr` are for a batch of 16.

    Attributes:
      warmup_steps: the rate rises linearly from a thousandth of `lr`.
      weight_decay: of weights and biases; norms have none.
    """

    steps: int
    decay_at: tuple[int, ...]
    lr: float = 0.02
    warmup_steps: int = 1000
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self):
        if self.steps < 1:
            raise UserError(f"schedule.steps={self.steps} must be at least 1; schedule=evaluate trains none")
        if any(not 0 < at < self.steps for at in self.decay_at):
            raise UserError(f"schedule.decay_at={self.decay_at} must lie between 0 and schedule.steps={self.steps}")
        if not 0 < self.lr < np.inf:
            raise UserError(f"schedule.lr={self.lr} must be above 0")
        if not 0 <= self.momentum < 1:
            raise UserError(f"schedule.momentum={self.momentum} must be at least 0 and below 1")
        for name in ("warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"schedule.{name}={getattr(self, name)} must be at least 0")

    def scaled(self, steps: int, batch_size: int) -> int:
        """Steps of `batch_size` with as many photos as `steps` of 16, at least one."""
        return max(1, round(steps * BATCH / batch_size))


def learning_rate(spec: ScheduleSpec, batch_size: int) -> optax.Schedule:
    """Step to rate: `lr * batch_size / 16` after the warm-up, a tenth of it after each of `decay_at`."""
    peak, warmup = spec.lr * batch_size / BATCH, spec.scaled(spec.warmup_steps, batch_size) if spec.warmup_steps else 0
    bounds = np.array([spec.scaled(at, batch_size) for at in spec.decay_at])

    def schedule(step: Array) -> Float[Array, ""]:
        begun = jnp.clip(step / warmup, 0, 1) if warmup else 1.0
        fallen = 0.1 ** (step >= bounds).sum()
        return peak * (_WARMUP_START * (1 - begun) + begun) * fallen

    return schedule


def make_optimizer(spec: ScheduleSpec, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum; norms do not decay."""
    decay = optax.add_decayed_weights(spec.weight_decay, mask=decays)
    return optax.chain(decay, optax.sgd(schedule, momentum=spec.momentum))


def decays(params: Any) -> Any:
    """True but for the scales and biases of norms, whose modules are called `bn1` or `conv1_norm`."""

    def decays_at(path: tuple[Any, ...], _: Any) -> bool:
        module = path[-2].key
        return not ("bn" in module or module.endswith("_norm"))

    return jax.tree_util.tree_map_with_path(decays_at, params)
