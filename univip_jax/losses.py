"""The three terms of UniVIP (Eq. 2-11), one value per image, float32, and their sum (Eq. 12).

o: online outputs, after the predictor; t: target outputs, after the projector, through which no gradient flows.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from univip_jax.common.errors import UserError
from univip_jax.transport import OWN_MASS, TransportSpec, marginals, normalize, transport_plan
from univip_jax.types import Metrics, OnlineOutputs, TargetOutputs


@dataclass(frozen=True)
class LossSpec:
    """`config.loss`: the weight of each term (0 switches it off, and its compute), and the scale of their sum."""

    scene: float
    scene_instance: float
    instance: float
    scale: float

    def __post_init__(self):
        for field in ("scene", "scene_instance", "instance"):
            if not getattr(self, field) >= 0:
                raise UserError(f"loss.{field}={getattr(self, field)} must not be negative; 0 switches it off")
        if not self.scene + self.scene_instance + self.instance > 0:
            raise UserError(
                "loss.scene, loss.scene_instance and loss.instance are all 0, nothing would be learned: "
                "give --config.loss.scene=1"
            )
        if not self.scale > 0:
            raise UserError(f"loss.scale={self.scale} must be above 0; 1 is the paper's Eq. 2, 2 is BYOL's 2 - 2 cos")

    @property
    def needs_instances(self) -> bool:
        """Whether any term looks at an instance; if not, none is cropped, sent or forwarded."""
        return self.scene_instance > 0 or self.instance > 0


def cosine(x: Float[Array, "*#any D"], y: Float[Array, "*#any D"]) -> Float[Array, "*any"]:
    """Cosine over the last axis; 0 where either side is zero."""
    return jnp.sum(normalize(x) * normalize(y), axis=-1)


def scene_loss(online_scenes: Float[Array, "B 2 D"], target_scenes: Float[Array, "B 2 D"]) -> Float[Array, " B"]:
    """`- cos(o_s1, t_s2) - cos(o_s2, t_s1)` (UniVIP Eq. 2-3)."""
    target_scenes = jax.lax.stop_gradient(target_scenes)
    return -cosine(online_scenes, target_scenes[:, ::-1]).sum(1)


def scene_instance_loss(merged: Float[Array, "B D"], target_scenes: Float[Array, "B 2 D"]) -> Float[Array, " B"]:
    """`- cos(I, t_s1) - cos(I, t_s2)`, I the K merged instances of an image (UniVIP Eq. 5-6)."""
    target_scenes = jax.lax.stop_gradient(target_scenes)
    return -cosine(merged[:, None], target_scenes).sum(1)


def _similarity(online: OnlineOutputs, target: TargetOutputs) -> Float[Array, "B K K"]:
    """cos(o_m, t_n) of all pairs of instances of an image."""
    unit = normalize(online.instances), normalize(target.instances)
    return jnp.einsum("bmd,bnd->bmn", *unit, precision=jax.lax.Precision.HIGHEST)


def instance_loss(
    online: OnlineOutputs, target: TargetOutputs, transport: TransportSpec
) -> tuple[Float[Array, " B"], Float[Array, "B K K"]]:
    """`- sum_mn cos(o_m, t_n) y_mn`, y the transport plan of the instances (UniVIP Eq. 7-11), and that plan.

    With `transport.stop_gradient` only the cosines carry gradient, as in OTA: the plan is a constant.
    """
    target = jax.lax.stop_gradient(target)
    similarity = _similarity(online, target)
    batch, count, _ = online.instances.shape
    given = None if transport.plan_mass == OWN_MASS else jnp.full(batch, transport.plan_mass or float(count))
    supply = marginals(online.instances, target.scenes, transport, given)
    demand = marginals(target.instances, online.scenes, transport, supply.sum(-1))
    problem = (1.0 - similarity, supply, demand)
    if transport.stop_gradient:
        problem = jax.lax.stop_gradient(problem)
    if transport.plan == "diagonal":
        plan = jax.vmap(jnp.diag)(problem[1])
    else:
        plan = transport_plan(*problem, epsilon=transport.epsilon, num_iters=transport.num_iters)
    return -jnp.sum(similarity * plan, axis=(1, 2)), plan


def plan_metrics(online: OnlineOutputs, target: TargetOutputs, plan: Float[Array, "B K K"]) -> Metrics:
    """What a plan does, means over the images: whether an instance is pulled to itself or to the others.

    - `plan/diagonal`: share of the mass between an instance and itself. 1/K knows nothing; healthy: above 0.5, rising.
    - `plan/marginal_tv`: total variation between supply and demand: the share of the mass that must leave the diagonal,
      whatever the costs are. Healthy: below 0.2.
    - `plan/mass`: the sum of the supplies. With `plan_mass=-1` it paces the term; 0.07 for a new ResNet-50.
    - `plan/cosine_same`, `plan/cosine_other`: of an instance with itself and with the others. Healthy: a gap of more
      than twice `transport.epsilon`, or the plan cannot tell them apart.
    """
    online, target, plan = jax.lax.stop_gradient((online, target, plan))
    similarity, count = _similarity(online, target), plan.shape[-1]
    mass = plan.sum((1, 2))
    share = plan / mass[:, None, None]
    same = jnp.trace(similarity, axis1=1, axis2=2)
    means = {
        "diagonal": jnp.trace(share, axis1=1, axis2=2),
        "marginal_tv": jnp.abs(share.sum(2) - share.sum(1)).sum(1) / 2,
        "mass": mass,
        "cosine_same": same / count,
        "cosine_other": (similarity.sum((1, 2)) - same) / max(count * (count - 1), 1),
    }
    return {f"plan/{name}": value.mean() for name, value in means.items()}


def total_loss(
    online: OnlineOutputs, target: TargetOutputs, loss: LossSpec, transport: TransportSpec
) -> tuple[Float[Array, ""], Metrics]:
    """The weighted sum of the terms (UniVIP Eq. 12), and as metrics each term's mean over the batch and `plan_metrics`.

    # Deviation from the paper: times `loss.scale`; BYOL and ORL use 2 - 2 cos where Eq. 2 has - cos.
    """
    terms, diagnostics = {}, {}
    if loss.scene:
        terms["scene"] = scene_loss(online.scenes, target.scenes).mean()
    if loss.scene_instance:
        terms["scene_instance"] = scene_instance_loss(online.merged, target.scenes).mean()
    if loss.instance:
        values, plan = instance_loss(online, target, transport)
        terms["instance"] = values.mean()
        diagnostics = plan_metrics(online, target, plan)
    total = loss.scale * sum(getattr(loss, name) * value for name, value in terms.items())
    return total, {f"train/loss_{name}": value for name, value in terms.items()} | diagnostics
