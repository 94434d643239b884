"""The online and the target network of UniVIP (section 3 and Figure 2)."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from univip_jax.common.errors import UserError
from univip_jax.models.heads import MLP
from univip_jax.models.resnet import DEPTHS, INITS, STEMS, ResNet
from univip_jax.types import OnlineOutputs, TargetOutputs

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}
PREDICTORS = ("one", "two")
RUNNING_STATS = ("all", "scenes")


@dataclass(frozen=True)
class ModelSpec:
    """`config.model`: see configs/common.py for the meaning of each field."""

    backbone: str
    width: float
    stem: str
    zero_init_residual: bool
    init: str
    hidden: int
    projection: int
    predictors: str
    running_stats: str
    dtype: str

    def __post_init__(self):
        for field, allowed in (
            ("backbone", DEPTHS),
            ("stem", STEMS),
            ("init", INITS),
            ("predictors", PREDICTORS),
            ("running_stats", RUNNING_STATS),
            ("dtype", DTYPES),
        ):
            if getattr(self, field) not in allowed:
                raise UserError(
                    f"model.{field}={getattr(self, field)!r} is unknown; choose one of {', '.join(allowed)}"
                )
        if int(64 * self.width) < 1 or min(self.hidden, self.projection) < 1:
            raise UserError(
                f"model.width={self.width}, model.hidden={self.hidden}, model.projection={self.projection}: "
                "each must leave at least one channel"
            )


def make_backbone(spec: ModelSpec) -> ResNet:
    """The backbone alone, as evaluation and export use it."""
    return ResNet(spec.backbone, spec.width, spec.stem, spec.zero_init_residual, spec.init, DTYPES[spec.dtype])


class Encoder(nn.Module):
    """Backbone and projector; the target network is one of these."""

    spec: ModelSpec

    def setup(self):
        self.backbone = make_backbone(self.spec)
        self.projector = MLP(self.spec.hidden, self.spec.projection, self.spec.init, DTYPES[self.spec.dtype])

    def __call__(self, images: Float[Array, "N H W 3"], train: bool) -> Float[Array, "N D"]:
        return self.projector(self.backbone(images, train), train)


def _one_by_one(network, scenes: Float[Array, "B 2 S S 3"]) -> Float[Array, "B 2 D"]:
    """Each scene view in a pass of its own: batch norm must not see both views of an image at once."""
    return jnp.stack([network(scenes[:, 0]), network(scenes[:, 1])], axis=1)


def _all_at_once(network, instances: Float[Array, "B K I I 3"]) -> Float[Array, "B K D"]:
    outputs = network(instances.reshape(-1, *instances.shape[2:]))
    return outputs.reshape(*instances.shape[:2], -1)


class Online(nn.Module):
    """Online network: encoder, predictor, and `f_linear` where the scene-instance term needs it."""

    spec: ModelSpec
    merge: bool  # whether `f_linear` exists

    def setup(self):
        self.encoder = Encoder(self.spec)
        self.predictor = self._predictor()
        if self.spec.predictors == "two":
            self.instance_predictor = self._predictor()
        if self.merge:
            self.f_linear = nn.Dense(self.spec.projection, dtype=DTYPES[self.spec.dtype])

    def _predictor(self) -> MLP:
        return MLP(self.spec.hidden, self.spec.projection, self.spec.init, DTYPES[self.spec.dtype])

    def __call__(
        self, scenes: Float[Array, "B 2 S S 3"], instances: Float[Array, "B K I I 3"], train: bool = True
    ) -> OnlineOutputs:
        """Scenes one view at a time, then the instances; K = 0 costs nothing."""
        return OnlineOutputs(self.of_scenes(scenes, train), *self.of_instances(instances, train))

    def of_scenes(self, scenes: Float[Array, "B 2 S S 3"], train: bool = True) -> Float[Array, "B 2 D"]:
        """After the predictor."""
        return _one_by_one(lambda images: self.predictor(self.encoder(images, train), train), scenes)

    def of_instances(
        self, instances: Float[Array, "B K I I 3"], train: bool = True
    ) -> tuple[Float[Array, "B K D"], Float[Array, "B D"]]:
        """After the predictor, and merged (zeros without `merge`)."""
        batch, count = instances.shape[:2]
        outputs, merged = jnp.zeros((batch, count, self.spec.projection)), jnp.zeros((batch, self.spec.projection))
        if count:
            predictor = self.instance_predictor if self.spec.predictors == "two" else self.predictor
            outputs = _all_at_once(lambda images: predictor(self.encoder(images, train), train), instances)
        if self.merge:
            merged = self.f_linear(outputs.reshape(batch, -1)).astype(outputs.dtype)
        return outputs, merged


def online_forward(
    network: Online, variables: Any, scenes: Float[Array, "B 2 S S 3"], instances: Float[Array, "B K I I 3"]
) -> tuple[OnlineOutputs, Any]:
    """The online outputs in train mode, and the new batch statistics."""
    of_scenes, after_scenes = network.apply(variables, scenes, method="of_scenes", mutable=["batch_stats"])
    of_instances, after_all = network.apply(
        variables | after_scenes, instances, method="of_instances", mutable=["batch_stats"]
    )
    return OnlineOutputs(of_scenes, *of_instances), _kept(
        network.spec, after_scenes["batch_stats"], after_all["batch_stats"]
    )


def target_forward(
    encoder: Encoder, variables: Any, scenes: Float[Array, "B 2 S S 3"], instances: Float[Array, "B K I I 3"]
) -> tuple[TargetOutputs, Any]:
    """The target's outputs, in train mode and without gradient, and its new batch statistics.

    Pass instances with K = 0 where no loss needs them.
    """

    def of_scenes(module: Encoder):
        return _one_by_one(lambda images: module(images, True), scenes)

    def of_instances(module: Encoder):
        if not instances.shape[1]:
            return jnp.zeros((*instances.shape[:2], encoder.spec.projection))
        return _all_at_once(lambda images: module(images, True), instances)

    scene_outputs, after_scenes = nn.apply(of_scenes, encoder, mutable=["batch_stats"])(variables)
    instance_outputs, after_all = nn.apply(of_instances, encoder, mutable=["batch_stats"])(variables | after_scenes)
    outputs = jax.lax.stop_gradient(TargetOutputs(scene_outputs, instance_outputs))
    return outputs, _kept(encoder.spec, after_scenes["batch_stats"], after_all["batch_stats"])


def _kept(spec: ModelSpec, after_scenes: Any, after_all: Any) -> Any:
    """Running statistics of the passes that `spec.running_stats` names; a predictor of instances has only theirs."""
    if spec.running_stats == "all":
        return after_all
    return after_scenes | {name: after_all[name] for name in after_all if name == "instance_predictor"}
