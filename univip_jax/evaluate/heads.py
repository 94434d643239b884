"""Linear heads on frozen features. All heads of a grid train together, on one pass, each as it would alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt8

from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD, normalize_pixels
from univip_jax.common.errors import UserError
from univip_jax.evaluate.colors import augment_colors
from univip_jax.evaluate.scores import count_right
from univip_jax.evaluate.task import require_least
from univip_jax.models.norm import BatchNorm
from univip_jax.models.pooling import POOLINGS
from univip_jax.models.resnet import layer_maps
from univip_jax.weights.encoder import Encoder

SCHEDULES = ("milestones", "cosine")
# (the backbone's variables, images, key of a training step or None) to the pooled maps by pooling
FeaturesFn = Callable[[Any, UInt8[Array, "N H W 3"], Any], dict[str, Float[Array, "N *windows C"]]]


class HeadSpec(NamedTuple):
    """A point of the grid: one head."""

    pooling: str
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class ProbeSpec:
    """The fields of configs/linear.py; see there."""

    seed: int
    batch_size: int
    num_epochs: int
    checkpoint_every_epochs: int
    pooling: tuple[str, ...]
    batch_norm: bool
    lr: tuple[float, ...]
    schedule: str
    milestones: tuple[float, ...]
    momentum: float
    nesterov: bool
    weight_decay: tuple[float, ...]
    color_jitter: float
    lighting: float
    held_out: int
    retrain: bool

    def __post_init__(self):
        for field in ("pooling", "lr", "weight_decay"):
            value = getattr(self, field)
            if not value or len({*value}) < len(value):
                raise UserError(f"{field}={value} must be one or several different values")
        for field, values, allowed in (
            ("pooling", self.pooling, tuple(POOLINGS)),
            ("schedule", [self.schedule], SCHEDULES),
        ):
            for value in values:
                if value not in allowed:
                    raise UserError(f"{field}={value!r} is unknown; choose {' or '.join(allowed)}")
        require_least(1, num_epochs=self.num_epochs, checkpoint_every_epochs=self.checkpoint_every_epochs)
        require_least(0, held_out=self.held_out)
        if not 0 <= self.color_jitter <= 1:
            raise UserError(f"color_jitter={self.color_jitter} must be in 0..1")

    @property
    def points(self) -> list[HeadSpec]:
        """The grid, in the order of losses and scores."""
        return [HeadSpec(*values) for values in product(self.pooling, self.lr, self.weight_decay)]


class Heads(NamedTuple):
    """The state of a probe; each field a dict by pooling. H heads share a pooling: `lr` x `weight_decay`."""

    weights: dict[str, dict[str, Array]]  # kernel [H, F, C], bias [H, C]
    opt_state: dict[str, Any]
    statistics: dict[str, Any]  # [C] of the batch norm, which has no weights: one for all heads of a pooling


def make_schedule(spec: ProbeSpec, steps_per_epoch: int) -> optax.Schedule:
    """The factor of `lr` at a step, counted from 0."""
    scale = spec.batch_size / 256
    if spec.schedule == "cosine":
        return optax.cosine_decay_schedule(scale, spec.num_epochs * steps_per_epoch)
    return optax.piecewise_constant_schedule(scale, {round(epoch * steps_per_epoch): 0.1 for epoch in spec.milestones})


def features_fn(encoder: Encoder, spec: ProbeSpec) -> FeaturesFn:
    """Frozen features by running statistics; training crops get the colours of the protocol."""

    def features(variables, images, key):
        if key is not None and (spec.color_jitter or spec.lighting):
            colored = augment_colors(key, images.astype(jnp.float32) / 255.0, spec.color_jitter, spec.lighting)
            pixels = (colored - IMAGENET_MEAN) / IMAGENET_STD
        else:
            pixels = normalize_pixels(images)
        maps = layer_maps(encoder.backbone, variables, pixels)
        return {pooling: POOLINGS[pooling](maps) for pooling in spec.pooling}

    return features


def init_heads(spec: ProbeSpec, shapes: dict[str, tuple[int, ...]], num_classes: int) -> Heads:
    """Kernels N(0, 0.01), the same for all heads of a pooling; `shapes` are those of an image's pooled maps."""
    number = len(spec.lr) * len(spec.weight_decay)

    def head(size: int) -> dict[str, Array]:
        kernel = 0.01 * jax.random.normal(jax.random.key(spec.seed), (size, num_classes))
        return {
            "kernel": jnp.broadcast_to(kernel, (number, *kernel.shape)),
            "bias": jnp.zeros((number, num_classes)),
        }

    weights = {pooling: head(math.prod(shape)) for pooling, shape in shapes.items()}
    opt_state = {pooling: jax.vmap(_optimizer(spec, 0.0, 0.0).init)(stack) for pooling, stack in weights.items()}
    if not spec.batch_norm:
        return Heads(weights, opt_state, {})
    channels = {pooling: shape[-1] for pooling, shape in shapes.items()}
    statistics = {pooling: {"mean": jnp.zeros(number), "var": jnp.ones(number)} for pooling, number in channels.items()}
    return Heads(weights, opt_state, statistics)


def make_step(spec: ProbeSpec, schedule: optax.Schedule, features_of: FeaturesFn) -> Callable[..., tuple[Heads, Array]]:
    """(heads, step from 0, the backbone's variables, images, labels) to the heads after it and their losses [points].

    The updates of a point do not depend on the rest of the grid.
    """
    rates, decays = (jnp.array(values) for values in zip(*product(spec.lr, spec.weight_decay), strict=True))

    def update(weights, opt_state, lr, weight_decay, features, labels):
        """Of one head."""

        def loss_fn(weights):
            logits = features @ weights["kernel"] + weights["bias"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = jax.value_and_grad(loss_fn)(weights)
        updates, opt_state = _optimizer(spec, lr, weight_decay).update(grads, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state, loss

    def step_fn(heads: Heads, step: Int[Array, ""], variables: Any, images: Array, labels: Array):
        key = jax.random.fold_in(jax.random.key(spec.seed), step)
        after, losses = Heads({}, {}, {}), []
        for pooling, features in features_of(variables, images, key).items():
            if spec.batch_norm:
                statistics = {"batch_stats": heads.statistics[pooling]}
                features, new = _norm(train=True).apply(statistics, features, mutable=["batch_stats"])
                after.statistics[pooling] = new["batch_stats"]
            features = features.reshape(len(features), -1)
            after.weights[pooling], after.opt_state[pooling], loss = jax.vmap(update, in_axes=(0, 0, 0, 0, None, None))(
                heads.weights[pooling], heads.opt_state[pooling], rates * schedule(step), decays, features, labels
            )
            losses.append(loss)
        return after, jnp.concatenate(losses)

    return jax.jit(step_fn, donate_argnums=0)


def make_count(spec: ProbeSpec, features_of: FeaturesFn) -> Callable[..., Int[Array, "P 2"]]:
    """(heads, the backbone's variables, images [N], labels [N]) to `count_right` of each head, [points, 2]."""

    def count(heads: Heads, variables: Any, images: Array, labels: Array) -> Int[Array, "P 2"]:
        right = []
        for pooling, features in features_of(variables, images, None).items():
            if spec.batch_norm:
                features = _norm(train=False).apply({"batch_stats": heads.statistics[pooling]}, features)
            stack, features = heads.weights[pooling], features.reshape(len(features), -1)
            logits = jnp.einsum("nf,hfc->hnc", features, stack["kernel"]) + stack["bias"][:, None]
            right.append(jax.vmap(count_right, in_axes=(0, None))(logits, labels))
        return jnp.concatenate(right)

    return jax.jit(count)


def select(heads: Heads, spec: ProbeSpec, point: HeadSpec) -> Heads:
    """The heads of all poolings with the rate and the decay of a point, as if the grid had no other."""
    index = list(product(spec.lr, spec.weight_decay)).index((point.lr, point.weight_decay))
    weights, opt_state = jax.tree.map(lambda x: x[index : index + 1], (heads.weights, heads.opt_state))
    return Heads(weights, opt_state, heads.statistics)


def _norm(train: bool) -> Any:
    """Over the channels of a pooled map, before it is flattened (ORL, OpenSelfSup)."""
    return BatchNorm(train, jnp.float32, affine=False)


def _optimizer(spec: ProbeSpec, lr: Any, weight_decay: Any) -> optax.GradientTransformation:
    """PyTorch's SGD: the decay is added to the gradient."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(lr, momentum=spec.momentum, nesterov=spec.nesterov)
    )
