"""Fine-tuning: a pre-trained backbone and a linear layer upon it, trained together by SGD, each at its own rate."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from univip_jax.augment import normalize_pixels
from univip_jax.data.labelled.sets import Labelled, LabelledBatch, centre_batches, choose, training_batches
from univip_jax.models.resnet import ResNet
from univip_jax.sharding import by_batch, local_rows, put_batch, replicated
from univip_jax.weights.encoder import Encoder

_AHEAD = 2  # steps that may be queued on the device: more would only hold batches in its memory


@dataclass(frozen=True)
class Recipe:
    """What all fine-tunings of a grid share; the fields of configs/semi.py."""

    seed: int
    image_size: int
    batch_size: int
    num_epochs: int
    milestones: tuple[int, ...]
    decay: float
    momentum: float
    weight_decay: float

    def rate_factor(self, epoch: int) -> float:
        """What the rates are multiplied by in an epoch, counted from 0."""
        return self.decay ** sum(epoch >= milestone for milestone in self.milestones)

    def optimizer(self) -> optax.GradientTransformation:
        """PyTorch's SGD up to the rate, which does not enter its momentum; every parameter decays."""
        return optax.chain(optax.add_decayed_weights(self.weight_decay), optax.trace(self.momentum))


class Rates(NamedTuple):
    """Learning rates of the two groups of parameters."""

    backbone: Float[Array, ""]
    head: Float[Array, ""]


@flax.struct.dataclass
class Classifier:
    """What a step changes. `params` are `backbone` and `head`: {'kernel': [F, C], 'bias': [C]}."""

    params: dict[str, Any]
    batch_stats: Any
    opt_state: Any


def init_classifier(variables: Any, num_features: int, num_classes: int, recipe: Recipe) -> Classifier:
    """The pre-trained backbone, and a linear layer drawn from N(0, 0.01^2), as ORL's; its bias is 0."""
    kernel = 0.01 * jax.random.normal(jax.random.key(recipe.seed), (num_features, num_classes))
    params = {"backbone": variables["params"], "head": {"kernel": kernel, "bias": jnp.zeros(num_classes)}}
    return Classifier(params, variables["batch_stats"], recipe.optimizer().init(params))


def finetune_step(
    state: Classifier,
    images: UInt8[Array, "N H W 3"],
    labels: Int[Array, " N"],
    rates: Rates,
    *,
    backbone: ResNet,
    recipe: Recipe,
) -> tuple[Classifier, Float[Array, ""]]:
    """One step, batch norm by the batch's statistics; and the loss, not finite where the gradient is not."""

    def loss_fn(params):
        variables = {"params": params["backbone"], "batch_stats": state.batch_stats}
        features, changed = backbone.apply(variables, normalize_pixels(images), train=True, mutable=["batch_stats"])
        logits = features @ params["head"]["kernel"] + params["head"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), changed["batch_stats"]

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    direction, opt_state = recipe.optimizer().update(grads, state.opt_state, state.params)
    updates = {name: optax.tree.scale(-rate, direction[name]) for name, rate in rates._asdict().items()}
    params = optax.apply_updates(state.params, updates)
    loss = jnp.where(jnp.isfinite(optax.tree.norm(grads)), loss, jnp.nan)
    return Classifier(params, batch_stats, opt_state), loss


def count_right(
    params: Any, batch_stats: Any, images: UInt8[Array, "N H W 3"], labels: Int[Array, " N"], *, backbone: ResNet
) -> Int[Array, "2"]:
    """How many labels are the first, and are among the first five, by the running statistics; label -1 never is.

    Nor is that of a row whose logits are not finite; of equal logits the lower class is first.
    """
    variables = {"params": params["backbone"], "batch_stats": batch_stats}
    features = backbone.apply(variables, normalize_pixels(images), train=False)
    logits = features @ params["head"]["kernel"] + params["head"]["bias"]
    best = jax.lax.top_k(logits, min(5, logits.shape[1]))[1]
    hit = (best == labels[:, None]) & jnp.isfinite(logits).all(1, keepdims=True)
    return jnp.stack([hit[:, 0].sum(), hit.any(1).sum()])


class Finetuning:
    """Fine-tunes one encoder again and again, on all devices of all processes, by programs that are compiled once."""

    def __init__(self, encoder: Encoder, num_classes: int, recipe: Recipe, mesh: Mesh):
        """Compiles; raises UserError where the batch cannot be split over the devices."""
        self.recipe, self.mesh, self._rows = recipe, mesh, local_rows(mesh, recipe.batch_size)
        variables = jax.device_get(encoder.variables)
        image = jax.ShapeDtypeStruct((1, recipe.image_size, recipe.image_size, 3), np.uint8)
        num_features = jax.eval_shape(encoder.apply, variables, image).shape[1]
        init = partial(init_classifier, num_features=num_features, num_classes=num_classes, recipe=recipe)
        everywhere, split = replicated(mesh), by_batch(mesh)
        self.start: Callable[[], Classifier] = partial(jax.jit(init, out_shardings=everywhere), variables)
        state = jax.eval_shape(init, variables)

        step = partial(finetune_step, backbone=encoder.backbone, recipe=recipe)
        count = partial(count_right, backbone=encoder.backbone)
        images = jax.ShapeDtypeStruct((recipe.batch_size, *image.shape[1:]), np.uint8)
        labels = jax.ShapeDtypeStruct((recipe.batch_size,), np.int32)
        rate = jax.ShapeDtypeStruct((), np.float32)
        step = jax.jit(
            step, in_shardings=(everywhere, split, split, everywhere), out_shardings=everywhere, donate_argnums=0
        )
        count = jax.jit(count, in_shardings=(everywhere, everywhere, split, split), out_shardings=everywhere)
        self._step = step.lower(state, images, labels, Rates(rate, rate)).compile()
        self._count = count.lower(state.params, state.batch_stats, images, labels).compile()

    def num_steps(self, labelled: Labelled) -> int:
        """Of an epoch: the whole batches that the set holds; the rest waits for another order."""
        return labelled.num_images // self.recipe.batch_size

    def batches(self, labelled: Labelled, first_epoch: int) -> Iterator[LabelledBatch]:
        """The rows of this process, of the epochs from `first_epoch` on; `num_steps` of them are an epoch."""
        recipe = self.recipe
        epochs = {"num_epochs": recipe.num_epochs, "start_epoch": first_epoch}
        return training_batches(
            labelled, recipe.image_size, recipe.batch_size, seed=recipe.seed, rows=self._rows, **epochs
        )

    def train_epoch(
        self,
        state: Classifier,
        batches: Iterable[LabelledBatch],
        epoch: int,
        *,
        lr: float,
        head_multiplier: float,
        on_step: Callable[[], object],
    ) -> tuple[Classifier, float]:
        """The state after the batches of one epoch, counted from 0, and their mean loss; `state` is donated.

        Args:
          lr: for a batch of 256, before any milestone; grows linearly with the batch.
          on_step: called after each step.
        """
        rate = lr * self.recipe.batch_size / 256 * self.recipe.rate_factor(epoch)
        rates = jax.device_put(Rates(np.float32(rate), np.float32(rate * head_multiplier)), replicated(self.mesh))
        losses = []
        for images, labels in batches:
            state, loss = self._step(state, *put_batch(self.mesh, (images, labels.astype(np.int32))), rates)
            losses.append(loss)
            if len(losses) > _AHEAD:
                losses[-_AHEAD - 1].block_until_ready()
            on_step()
        return state, float(np.mean(jax.device_get(losses)))

    def score(self, state: Classifier, labelled: Labelled) -> tuple[float, float]:
        """Top-1 and top-5 in percent, on centre crops; each process reads its share of the photos."""
        batch_size, size = self.recipe.batch_size, self.recipe.image_size
        fed = np.isin(np.arange(labelled.num_images) % batch_size, self._rows)
        batches = centre_batches(choose(labelled, fed, labelled.name), size, len(self._rows))
        right = np.zeros(2, int)
        for _ in range(-(-labelled.num_images // batch_size)):  # as many on each process, though the last be empty
            images = np.zeros((len(self._rows), size, size, 3), np.uint8)
            labels = np.full(len(self._rows), -1, np.int32)
            if batch := next(batches, None):
                images[: len(batch.labels)], labels[: len(batch.labels)] = batch
            right += np.asarray(self._count(state.params, state.batch_stats, *put_batch(self.mesh, (images, labels))))
        top1, top5 = 100 * right / labelled.num_images
        return float(top1), float(top5)
