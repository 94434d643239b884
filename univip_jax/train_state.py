"""The state at step 0."""

import jax
import jax.numpy as jnp
import optax

from univip_jax.models.univip import ModelSpec, Online
from univip_jax.types import TrainState


def init_state(
    seed: int, spec: ModelSpec, optimizer: optax.GradientTransformation, *, num_instances: int, merge: bool
) -> TrainState:
    """Online parameters from `seed`; the target starts as a copy of the online encoder.

    All parameters, `f_linear` among them, exist before the optimizer's state is made, so that all are trained.
    """
    # The sizes of the images do not matter to the parameters: the smallest that every stage accepts is enough.
    scenes, instances = jnp.zeros((1, 2, 32, 32, 3)), jnp.zeros((1, num_instances, 32, 32, 3))
    variables = Online(spec, merge).init(jax.random.key(seed), scenes, instances)
    params, batch_stats = variables["params"], variables["batch_stats"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        # Copies: a donated state must not hold one buffer twice.
        target_params=jax.tree.map(jnp.copy, params["encoder"]),
        target_batch_stats=jax.tree.map(jnp.copy, batch_stats["encoder"]),
        opt_state=optimizer.init(params),
        bad_steps=jnp.zeros((), jnp.int32),
    )
