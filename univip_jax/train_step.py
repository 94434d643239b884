"""One step of UniVIP: augment, target pass, online pass, three losses, update, moving average."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, UInt8

from univip_jax.augment import AugmentSpec, augment_batch
from univip_jax.losses import total_loss
from univip_jax.models.univip import Encoder, Online, online_forward, target_forward
from univip_jax.plan import Plan
from univip_jax.sharding import by_batch, replicated, step_options
from univip_jax.types import Batch, Metrics, OnlineOutputs, TrainState


def augment_instances(
    key: Key[Array, ""], instances: UInt8[Array, "B K I I 3"], spec: AugmentSpec, view: int
) -> Float[Array, "B K I I 3"]:
    """Augmented, normalised instances, each by its own draw of the first (0) or second (1) scene's augmentation."""
    if not instances.shape[1]:
        return jnp.zeros(instances.shape)
    flat = augment_batch(key, instances.reshape(-1, *instances.shape[2:]), spec, view)
    return flat.reshape(instances.shape)


def augment_views(key: Key[Array, ""], batch: Batch, spec: AugmentSpec) -> tuple[Batch, Float[Array, "B K I I 3"]]:
    """uint8 crops to augmented, normalised float32 crops of the same shapes, each crop by its own draw.

    Returns the online network's views and the target's instances. Those are by `spec.instances`: the same ones
    ("shared"), drawn anew as the first scene is ("independent") or as the second scene is ("two_views"). The scenes
    are the same for both networks.
    """
    first, second, third = jax.random.split(key, 3)
    scenes = [augment_batch(key, batch.scenes[:, view], spec, view=view) for view, key in enumerate((first, second))]
    instances = augment_instances(third, batch.instances, spec, view=0)
    again = instances
    if spec.instances != "shared":
        view = 1 if spec.instances == "two_views" else 0
        again = augment_instances(jax.random.fold_in(third, 1), batch.instances, spec, view)
    return Batch(jnp.stack(scenes, axis=1), instances), again


def feature_std(outputs: Float[Array, "B D"]) -> Float[Array, ""]:
    """Mean std over the batch of the l2-normalised outputs, times sqrt(D): 0 is collapse, about 1 is spread."""
    normalized = outputs / (jnp.linalg.norm(outputs, axis=-1, keepdims=True) + 1e-12)
    return normalized.std(0).mean() * outputs.shape[-1] ** 0.5


def sharded_online_forward(
    network: Online, params: Any, batch_stats: Any, views: Batch, mesh: Mesh
) -> tuple[OnlineOutputs, Any]:
    """`online_forward`, where each device computes the outputs of its part of the batch.

    So the gradients of the three passes are added on each device, in float32, and reduced over the devices in one
    round. The partitioner would reduce those of each pass, in the dtype of the computation. One device sums nothing.
    """

    def forward(params: Any, batch_stats: Any, views: Batch) -> tuple[OnlineOutputs, Any]:
        return online_forward(network, {"params": params, "batch_stats": batch_stats}, *views)

    def forward_part(params: Any, batch_stats: Any, views: Batch) -> tuple[OnlineOutputs, Any]:
        params = jax.lax.pcast(params, mesh.axis_names, to="varying")  # its transpose is the one sum over devices
        return forward(params, batch_stats, views)

    if mesh.size == 1:  # XLA would keep collectives of one device
        return forward(params, batch_stats, views)
    everywhere, split = replicated(mesh).spec, by_batch(mesh).spec
    sharded = jax.shard_map(
        forward_part, mesh=mesh, in_specs=(everywhere, everywhere, split), out_specs=(split, everywhere)
    )
    return sharded(params, batch_stats, views)


def train_step(state: TrainState, batch: Batch, plan: Plan, mesh: Mesh) -> tuple[TrainState, Metrics]:
    """A pure function of (state, batch). A step that is not finite changes only `step` and `bad_steps`."""
    key = jax.random.fold_in(jax.random.key(plan.seed), state.step)
    views, target_instances = augment_views(key, batch, plan.augment)
    target, target_stats = target_forward(
        Encoder(plan.model),
        {"params": state.target_params, "batch_stats": state.target_batch_stats},
        views.scenes,
        target_instances if plan.loss.instance else target_instances[:, :0],
    )
    network = Online(plan.model, merge=plan.loss.scene_instance > 0)

    def loss_fn(params):
        online, batch_stats = sharded_online_forward(network, params, state.batch_stats, views, mesh)
        loss, terms = total_loss(online, target, plan.loss, plan.transport)
        return loss, (terms, batch_stats)

    (loss, (terms, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = plan.gradient_transformation().update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    momentum = plan.target_momentum()(state.step)
    target_params = optax.incremental_update(params["encoder"], state.target_params, 1.0 - momentum)

    new = TrainState(state.step, params, batch_stats, target_params, target_stats, opt_state, state.bad_steps)
    good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    # optax.apply_if_finite would let the batch statistics through: keep or take the whole state.
    # The state's types stay as they are, under jax_enable_x64 too.
    new = jax.tree.map(lambda n, o: jnp.where(good, n.astype(o.dtype), o), new, state)
    new = new.replace(step=state.step + 1, bad_steps=state.bad_steps + (1 - good.astype(jnp.int32)))
    metrics = {
        "train/loss": loss,
        **terms,
        "train/grad_norm": grad_norm,
        "train/feature_std": feature_std(target.scenes[:, 0]),
        "train/learning_rate": plan.learning_rate()(state.step),
        "train/target_momentum": momentum,
        "train/bad_steps": new.bad_steps,
    }
    return new, metrics


def make_train_step(plan: Plan, mesh: Mesh) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`train_step`, jitted for `mesh`; the state is donated.

    Batch norm's statistics and the gradients are of the global batch.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return train_step(state, batch, plan, mesh)

    everywhere = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(everywhere, by_batch(mesh)),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
        compiler_options=step_options(mesh.devices.flat[0].platform),
    )


@lru_cache(maxsize=8)
def lower_step(plan: Plan, mesh: Mesh) -> jax.stages.Lowered:
    """The step of `plan`, traced for `mesh` and ready to be compiled; equal plans share it."""
    return make_train_step(plan, mesh).lower(jax.eval_shape(plan.init_state), plan.batch_shapes())


@lru_cache(maxsize=8)
def compile_step(plan: Plan, mesh: Mesh) -> jax.stages.Compiled:
    """The step of `plan`, compiled for `mesh` ahead of time; equal plans share it."""
    return lower_step(plan, mesh).compile()
