"""The online and the target network of UniVIP (section 3 and Figure 2)."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from univip_jax.common.errors import UserError
from univip_jax.models.heads import MLP
from univip_jax.models.resnet import DEPTHS, STEMS, ResNet
from univip_jax.types import OnlineOutputs, TargetOutputs

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}


@dataclass(frozen=True)
class ModelSpec:
    """`config.model`: see configs/common.py for the meaning of each field."""

    backbone: str
    width: float
    stem: str
    zero_init_residual: bool
    hidden: int
    projection: int
    dtype: str

    def __post_init__(self):
        for field, allowed in (("backbone", DEPTHS), ("stem", STEMS), ("dtype", DTYPES)):
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
    return ResNet(spec.backbone, spec.width, spec.stem, spec.zero_init_residual, DTYPES[spec.dtype])


class Encoder(nn.Module):
    """Backbone and projector; the target network is one of these."""

    spec: ModelSpec

    def setup(self):
        self.backbone = make_backbone(self.spec)
        self.projector = MLP(self.spec.hidden, self.spec.projection, DTYPES[self.spec.dtype])

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
        self.predictor = MLP(self.spec.hidden, self.spec.projection, DTYPES[self.spec.dtype])
        if self.merge:
            self.f_linear = nn.Dense(self.spec.projection, dtype=DTYPES[self.spec.dtype])

    def __call__(
        self, scenes: Float[Array, "B 2 S S 3"], instances: Float[Array, "B K I I 3"], train: bool = True
    ) -> OnlineOutputs:
        """Scenes one view at a time, then the instances; K = 0 costs nothing."""

        def network(images):
            return self.predictor(self.encoder(images, train), train)

        scene_outputs = _one_by_one(network, scenes)
        batch, _, dim = scene_outputs.shape
        instance_outputs = merged = None
        if instances.shape[1]:
            instance_outputs = _all_at_once(network, instances)
        if self.merge:
            merged = self.f_linear(instance_outputs.reshape(batch, -1)).astype(scene_outputs.dtype)
        return OnlineOutputs(
            scene_outputs,
            jnp.zeros((batch, 0, dim)) if instance_outputs is None else instance_outputs,
            jnp.zeros((batch, dim)) if merged is None else merged,
        )


def target_forward(
    encoder: Encoder, variables: Any, scenes: Float[Array, "B 2 S S 3"], instances: Float[Array, "B K I I 3"]
) -> tuple[TargetOutputs, Any]:
    """The target's outputs, in train mode and without gradient, and its new batch statistics.

    Pass instances with K = 0 where no loss needs them.
    """

    def forward(module: Encoder):
        def network(images):
            return module(images, True)

        scene_outputs = _one_by_one(network, scenes)
        if not instances.shape[1]:
            batch, _, dim = scene_outputs.shape
            return TargetOutputs(scene_outputs, jnp.zeros((batch, 0, dim)))
        return TargetOutputs(scene_outputs, _all_at_once(network, instances))

    outputs, updates = nn.apply(forward, encoder, mutable=["batch_stats"])(variables)
    return jax.lax.stop_gradient(outputs), updates["batch_stats"]
