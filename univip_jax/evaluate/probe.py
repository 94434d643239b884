"""Trains linear heads on the random crops of a labelled set, and scores them on centre crops."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import Labelled
from univip_jax.evaluate import sgd
from univip_jax.evaluate.heads import Heads, ProbeSpec, features_fn, init_heads, make_count, make_schedule, make_step
from univip_jax.sharding import make_mesh, replicated
from univip_jax.weights.encoder import Encoder


def train_heads(spec: ProbeSpec, encoder: Encoder, train: Labelled, image_size: int, folder: Path) -> Heads:
    """The heads of a grid after `num_epochs` epochs, as host arrays; checkpoints are in `folder`.

    Raises UserError where a batch, or a pooling, asks for more than there is, and where every head has diverged.
    """
    mesh, features_of = make_mesh(), features_fn(encoder, spec)
    schedule = make_schedule(spec, sgd.steps_per_epoch(train, spec.batch_size))
    init = partial(init_heads, spec, _sizes(features_of, encoder, image_size), len(train.classes))
    step_fn, variables = make_step(spec, schedule, features_of), sgd.on_each_device(mesh, encoder.variables)
    heads = sgd.fit(
        jax.jit(init, out_shardings=replicated(mesh)),
        lambda heads, step, images, labels: step_fn(heads, np.int32(step), variables, images, labels),
        train,
        image_size=image_size,
        batch_size=spec.batch_size,
        num_epochs=spec.num_epochs,
        seed=spec.seed,
        folder=folder,
        mesh=mesh,
        label=f"{len(spec.points)} heads on {train.name}",
        save_every_epochs=spec.checkpoint_every_epochs,
    )
    return jax.device_get(heads)


def score_heads(
    spec: ProbeSpec, encoder: Encoder, heads: Heads, labelled: Labelled, image_size: int
) -> Float[np.ndarray, "P 2"]:
    """Top-1 and top-5 of each head in percent; NaN for a head that is not finite."""
    mesh, count = make_mesh(jax.local_devices()), make_count(spec, features_fn(encoder, spec))
    variables, on_devices = sgd.on_each_device(mesh, encoder.variables), sgd.on_each_device(mesh, heads)
    scores = sgd.score(partial(count, on_devices, variables), labelled, image_size, spec.batch_size)
    finite = np.concatenate([np.isfinite(heads.weights[pooling]["kernel"]).all((1, 2)) for pooling in spec.pooling])
    return np.where(finite[:, None], scores, np.nan)


def _sizes(features_of, encoder: Encoder, image_size: int) -> dict[str, int]:
    """The number of features by pooling."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.uint8)
    try:
        shapes = jax.eval_shape(features_of, encoder.variables, images, None)
    except ValueError as error:  # of pool_2x2
        raise UserError(f"image_size={image_size}: {error}") from error
    return {pooling: shape.shape[1] for pooling, shape in shapes.items()}
