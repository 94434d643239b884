"""What a config means for a data set of a certain size: the specs of a run, its length and its schedules."""

from dataclasses import dataclass, replace

from ml_collections import ConfigDict

from univip_jax import optim
from univip_jax.augment import AugmentSpec
from univip_jax.common.errors import UserError
from univip_jax.config import check_least, to_spec
from univip_jax.losses import LossSpec
from univip_jax.models.univip import ModelSpec
from univip_jax.train_state import init_state
from univip_jax.train_step import StepSpec
from univip_jax.transport import TransportSpec
from univip_jax.types import TrainState
from univip_jax.views import ViewSpec


@dataclass(frozen=True)
class Plan:
    """A run, ready to be compiled. `views.num_instances` is 0 where no term looks at an instance."""

    step: StepSpec
    views: ViewSpec
    batch_size: int
    steps_per_epoch: int
    total_steps: int

    def init_state(self) -> TrainState:
        """The state at step 0."""
        return init_state(
            self.step.seed,
            self.step.model,
            self.step.optimizer,
            num_instances=self.views.num_instances,
            merge=self.step.loss.scene_instance > 0,
        )


def make_plan(config: ConfigDict, num_images: int) -> Plan:
    """Resolves `config` for `num_images` photos; raises UserError for each value that cannot be."""
    loss, views = to_spec(LossSpec, config, "loss"), to_spec(ViewSpec, config, "views")
    if not loss.needs_instances:
        views = replace(views, num_instances=0)
    elif not views.num_instances:
        raise UserError(
            "views.num_instances=0, but loss.scene_instance or loss.instance is above 0: set both to 0 "
            "(as the config argument table8=k0 does), or use instances"
        )
    check_least(config)
    steps_per_epoch = max(1, num_images // config.batch_size)
    total_steps = config.num_steps or round(config.num_epochs * steps_per_epoch)
    if total_steps < 1:
        raise UserError(f"num_epochs={config.num_epochs} and num_steps={config.num_steps} leave no step to do")
    optimizer = to_spec(optim.OptimizerSpec, config, "optimizer")
    schedule = optim.learning_rate(
        optimizer, batch_size=config.batch_size, total_steps=total_steps, steps_per_epoch=steps_per_epoch
    )
    step = StepSpec(
        seed=config.seed,
        model=to_spec(ModelSpec, config, "model"),
        augment=to_spec(AugmentSpec, config, "augment"),
        loss=loss,
        transport=to_spec(TransportSpec, config, "transport"),
        learning_rate=schedule,
        optimizer=optim.make_optimizer(optimizer, schedule),
        target_momentum=optim.target_momentum(config.ema.base, total_steps),
    )
    return Plan(step, views, config.batch_size, steps_per_epoch, total_steps)
