"""A run before it starts: every spec, its length, its schedules and its state at step 0."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from univip_jax import optim
from univip_jax.augment import AugmentSpec
from univip_jax.common.errors import UserError
from univip_jax.config import check_least, to_spec
from univip_jax.losses import LossSpec
from univip_jax.models.univip import ModelSpec, Online
from univip_jax.optim import OptimizerSpec
from univip_jax.transport import TransportSpec
from univip_jax.types import Batch, TrainState
from univip_jax.views import ViewSpec


@dataclass(frozen=True)
class Plan:
    """A run's every step, resolved for a data set (`config.make_plan`). Plain values: equal plans are equal.

    `views.num_instances` is 0 where no term looks at an instance.
    """

    seed: int
    model: ModelSpec
    augment: AugmentSpec
    views: ViewSpec
    loss: LossSpec
    transport: TransportSpec
    optimizer: OptimizerSpec
    ema_base: float
    batch_size: int
    steps_per_epoch: int
    total_steps: int

    def learning_rate(self) -> optax.Schedule:
        """Step to learning rate."""
        length = {"total_steps": self.total_steps, "steps_per_epoch": self.steps_per_epoch}
        return optim.learning_rate(self.optimizer, batch_size=self.batch_size, **length)

    def target_momentum(self) -> optax.Schedule:
        """Step to the target's momentum (UniVIP Eq. 1)."""
        return optim.target_momentum(self.ema_base, self.total_steps)

    def gradient_transformation(self) -> optax.GradientTransformation:
        """SGD or LARS at `learning_rate`."""
        return optim.make_optimizer(self.optimizer, self.learning_rate())

    def init_state(self) -> TrainState:
        """The state at step 0: online parameters from `seed`, the target a copy of the online encoder.

        All parameters, `f_linear` among them, exist before the optimizer's state is made, so that all are trained.
        """
        # The sizes of the images do not matter to the parameters: the smallest that every stage accepts is enough.
        scenes, instances = jnp.zeros((1, 2, 32, 32, 3)), jnp.zeros((1, self.views.num_instances, 32, 32, 3))
        network = Online(self.model, merge=self.loss.scene_instance > 0)
        variables = network.init(jax.random.key(self.seed), scenes, instances)
        params, batch_stats = variables["params"], variables["batch_stats"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            # Copies: a donated state must not hold one buffer twice.
            target_params=jax.tree.map(jnp.copy, params["encoder"]),
            target_batch_stats=jax.tree.map(jnp.copy, batch_stats["encoder"]),
            opt_state=self.gradient_transformation().init(params),
            bad_steps=jnp.zeros((), jnp.int32),
        )

    def batch_shapes(self) -> Batch:
        """Shapes and dtypes of one step's batch."""
        views, rows = self.views, self.batch_size
        scenes = (rows, 2, views.scene_size, views.scene_size, 3)
        instances = (rows, views.num_instances, views.instance_size, views.instance_size, 3)
        return Batch(jax.ShapeDtypeStruct(scenes, jnp.uint8), jax.ShapeDtypeStruct(instances, jnp.uint8))


def make_plan(config: ConfigDict, num_images: int) -> Plan:
    """Resolves `config` for `num_images` photos; raises UserError for each value that cannot be."""
    loss, views = to_spec(LossSpec, config, "loss"), to_spec(ViewSpec, config, "views")
    if not loss.needs_instances:
        views = replace(views, num_instances=0)
    elif not views.num_instances:
        raise UserError(
            "views.num_instances=0, but loss.scene_instance or loss.instance is above 0: use instances, or give "
            "--config.loss.scene_instance=0 --config.loss.instance=0 (as the config argument table8=k0 does)"
        )
    check_least(config)
    steps_per_epoch = max(1, num_images // config.batch_size)
    total_steps = config.num_steps or round(config.num_epochs * steps_per_epoch)
    if total_steps < 1:
        raise UserError(
            f"num_epochs={config.num_epochs} and num_steps={config.num_steps} leave no step to do: "
            "give --config.num_epochs=1 or more"
        )
    plan = Plan(
        seed=config.seed,
        model=to_spec(ModelSpec, config, "model"),
        augment=to_spec(AugmentSpec, config, "augment"),
        views=views,
        loss=loss,
        transport=to_spec(TransportSpec, config, "transport"),
        optimizer=to_spec(OptimizerSpec, config, "optimizer"),
        ema_base=config.ema.base,
        batch_size=config.batch_size,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )
    plan.learning_rate(), plan.target_momentum()  # each refuses what cannot be
    return plan
