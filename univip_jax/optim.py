"""Optimizers, schedules and the masks of weight decay (ORL's recipe for COCO, BYOL's for ImageNet)."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from univip_jax.common.errors import UserError

OPTIMIZERS = ("sgd", "lars")


@dataclass(frozen=True)
class OptimizerSpec:
    """`config.optimizer`: see configs/common.py. `lr` is for a batch of 256 and grows linearly with the batch."""

    name: str
    lr: float
    momentum: float
    weight_decay: float
    trust_coefficient: float
    warmup_epochs: float

    def __post_init__(self):
        if self.name not in OPTIMIZERS:
            raise UserError(f"optimizer.name={self.name!r} is unknown; choose one of {', '.join(OPTIMIZERS)}")
        if not self.lr > 0 or not self.warmup_epochs >= 0:
            raise UserError(
                f"optimizer.lr={self.lr} must be above 0 and optimizer.warmup_epochs={self.warmup_epochs} at least 0"
            )


def learning_rate(spec: OptimizerSpec, *, batch_size: int, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Linear warm-up from 0 to `lr * batch_size / 256`, then a cosine to 0 at `total_steps`.

    Raises UserError where the warm-up would not end before the run does.
    """
    warmup = round(spec.warmup_epochs * steps_per_epoch)
    if warmup >= total_steps:
        raise UserError(
            f"optimizer.warmup_epochs={spec.warmup_epochs} is {warmup} steps, the whole run {total_steps}: "
            f"train for longer, or give "
            f"--config.optimizer.warmup_epochs={0.1 * total_steps / steps_per_epoch:.2g}"
        )
    peak = spec.lr * batch_size / 256
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total_steps)


def target_momentum(base: float, total_steps: int) -> optax.Schedule:
    """`m = 1 - (1 - base) (cos(pi step / total_steps) + 1) / 2`: from `base` to 1 (BYOL; UniVIP Eq. 1)."""
    if not 0 <= base <= 1:
        raise UserError(f"ema.base={base} must be within 0..1")

    def schedule(step: Array) -> Float[Array, ""]:
        return 1.0 - (1.0 - base) * (jnp.cos(jnp.pi * step / total_steps) + 1.0) / 2.0

    return schedule


def is_kernel(params: Any) -> Any:
    """True for the kernels of convolutions and linear layers, False for biases and batch norm's scales."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(spec: OptimizerSpec, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD decays every parameter, LARS only kernels and adapts only those (as ORL and BYOL do)."""
    if spec.name == "sgd":
        return optax.chain(optax.add_decayed_weights(spec.weight_decay), optax.sgd(schedule, momentum=spec.momentum))
    return optax.lars(
        schedule,
        weight_decay=spec.weight_decay,
        weight_decay_mask=is_kernel,
        trust_coefficient=spec.trust_coefficient,
        trust_ratio_mask=is_kernel,
        momentum=spec.momentum,
    )
