"""Fine-tuning: a pre-trained backbone and a linear layer on it, trained together by SGD, each at its own rate."""

import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from univip_jax.augment import normalize_pixels
from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import Labelled
from univip_jax.evaluate import sgd
from univip_jax.evaluate.scores import count_right
from univip_jax.evaluate.task import require_least
from univip_jax.models.resnet import ResNet
from univip_jax.sharding import by_batch, make_mesh, replicated
from univip_jax.weights.encoder import Encoder


@dataclass(frozen=True)
class SemiSpec:
    """The fields of configs/semi.py that say how the grid is trained and judged; see there."""

    seed: int
    labels: int
    batch_size: int
    num_epochs: int
    lr: tuple[float, ...]
    head_multiplier: tuple[float, ...]
    milestones: tuple[int, ...]
    decay: float
    momentum: float
    weight_decay: float
    held_out: float

    def __post_init__(self):
        require_least(1, num_epochs=self.num_epochs, batch_size=self.batch_size)
        if not self.lr or not self.head_multiplier:
            raise UserError(f"lr={self.lr} and head_multiplier={self.head_multiplier} must each hold a number")

    @property
    def points(self) -> "list[Point]":
        """The grid: each rate with each multiplier."""
        return [Point(*values) for values in itertools.product(self.lr, self.head_multiplier)]

    def rate_factor(self, epoch: int) -> float:
        """The factor of the rates in an epoch, counted from 0."""
        return self.decay ** sum(epoch >= milestone for milestone in self.milestones)

    def optimizer(self) -> optax.GradientTransformation:
        """PyTorch's SGD up to the rate, which does not enter its momentum; every parameter decays."""
        return optax.chain(optax.add_decayed_weights(self.weight_decay), optax.trace(self.momentum))


class Point(NamedTuple):
    """A point of the grid. `lr` is for a batch of 256, and grows linearly with the batch."""

    lr: float
    head_multiplier: float

    def __str__(self) -> str:
        return f"lr={self.lr},head={self.head_multiplier}".replace(".0,", ",").removesuffix(".0")


@flax.struct.dataclass
class Classifier:
    """What a step changes. `params` are `backbone` and `head`: {'kernel': [F, C], 'bias': [C]}."""

    params: dict[str, Any]
    batch_stats: Any
    opt_state: Any


def init_classifier(variables: Any, num_features: int, num_classes: int, spec: SemiSpec) -> Classifier:
    """The pre-trained backbone, and a linear layer drawn from N(0, 0.01^2), as ORL's; its bias is 0."""
    kernel = 0.01 * jax.random.normal(jax.random.key(spec.seed), (num_features, num_classes))
    params = {"backbone": variables["params"], "head": {"kernel": kernel, "bias": jnp.zeros(num_classes)}}
    return Classifier(params, variables["batch_stats"], spec.optimizer().init(params))


def finetune_step(
    state: Classifier,
    images: UInt8[Array, "N H W 3"],
    labels: Int[Array, " N"],
    rates: dict[str, Float[Array, ""]],
    *,
    backbone: ResNet,
    spec: SemiSpec,
) -> tuple[Classifier, Float[Array, ""]]:
    """One step, batch norm by the batch's statistics; and the loss, not finite where the gradient is not.

    `rates` are the learning rates of `backbone` and `head`.
    """

    def loss_fn(params):
        variables = {"params": params["backbone"], "batch_stats": state.batch_stats}
        features, changed = backbone.apply(variables, normalize_pixels(images), train=True, mutable=["batch_stats"])
        logits = features @ params["head"]["kernel"] + params["head"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed["batch_stats"]

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    direction, opt_state = spec.optimizer().update(grads, state.opt_state, state.params)
    updates = {name: optax.tree.scale(-rate, direction[name]) for name, rate in rates.items()}
    params = optax.apply_updates(state.params, updates)
    loss = jnp.where(jnp.isfinite(optax.tree.norm(grads)), loss, jnp.nan)
    return Classifier(params, batch_stats, opt_state), loss


def count(
    params: Any, batch_stats: Any, images: UInt8[Array, "N H W 3"], labels: Int[Array, " N"], *, backbone: ResNet
) -> Int[Array, "2"]:
    """`count_right` of the first and of the first five classes, by running statistics."""
    variables = {"params": params["backbone"], "batch_stats": batch_stats}
    features = backbone.apply(variables, normalize_pixels(images), train=False)
    return count_right(features @ params["head"]["kernel"] + params["head"]["bias"], labels)


class Finetuning:
    """Fine-tunes one encoder again and again, by programs that are compiled once."""

    def __init__(self, encoder: Encoder, num_classes: int, spec: SemiSpec, image_size: int):
        """Compiles for all devices of all processes."""
        self._spec, self._image_size, mesh = spec, image_size, make_mesh()
        self._everywhere, split = replicated(mesh), by_batch(mesh)
        variables = jax.device_get(encoder.variables)
        image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.uint8)
        num_features = jax.eval_shape(encoder.apply, variables, image).shape[1]
        init = partial(init_classifier, num_features=num_features, num_classes=num_classes, spec=spec)
        self._init = partial(jax.jit(init, out_shardings=self._everywhere), variables)
        step = partial(finetune_step, backbone=encoder.backbone, spec=spec)
        shardings = (self._everywhere, split, split, self._everywhere)
        self._step = jax.jit(step, in_shardings=shardings, out_shardings=self._everywhere, donate_argnums=0)
        self._count = jax.jit(partial(count, backbone=encoder.backbone))

    def fit(self, train: Labelled, point: Point, folder: Path, label: str) -> Classifier:
        """Fine-tunes at the rates of `point`; checkpoints are in `folder`. Raises `DivergedError`."""
        spec, steps = self._spec, sgd.steps_per_epoch(train, self._spec.batch_size)

        def step_fn(state: Classifier, step: int, images: Array, labels: Array) -> tuple[Classifier, Array]:
            rate = point.lr * spec.batch_size / 256 * spec.rate_factor(step // steps)
            rates = {"backbone": np.float32(rate), "head": np.float32(rate * point.head_multiplier)}
            return self._step(state, images, labels, jax.device_put(rates, self._everywhere))

        return sgd.fit(
            self._init,
            step_fn,
            train,
            image_size=self._image_size,
            batch_size=spec.batch_size,
            num_epochs=spec.num_epochs,
            seed=spec.seed,
            folder=folder,
            label=label,
        )

    def score(self, state: Classifier, labelled: Labelled) -> tuple[float, float]:
        """Top-1 and top-5 in percent, on centre crops."""
        state = (state.params, state.batch_stats)
        return tuple(sgd.score(self._count, state, labelled, self._image_size, self._spec.batch_size).tolist())
