"""The one training loop of evaluations: probes and fine-tuning, on all devices of all processes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import Labelled, centre_batches, training_batches
from univip_jax.evaluate.features import fill_batch, progress_bar, round_batch
from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.sharding import by_batch, local_rows, make_mesh, put_batch, replicated

State = TypeVar("State")
_AHEAD = 2  # steps that may be queued on the device: more would only hold batches in its memory
_KEPT = 2  # checkpoints: the older one serves where the newest is damaged


class DivergedError(UserError):
    """No loss of an epoch is finite."""


def steps_per_epoch(train: Labelled, batch_size: int) -> int:
    """The whole batches in a set. Raises UserError where there is none."""
    if train.num_images < batch_size:
        raise UserError(
            f"batch_size={batch_size} is more than the {train.num_images} photos of {train.name}; lower it, "
            f"with which the rates shrink: --config.batch_size={train.num_images}"
        )
    return train.num_images // batch_size


def fit(
    init: Callable[[], State],
    step_fn: Callable[[State, int, Any, Any], tuple[State, Float[Array, "..."]]],
    train: Labelled,
    *,
    image_size: int,
    batch_size: int,
    num_epochs: int,
    seed: int,
    folder: Path,
    label: str,
    save_every_epochs: int = 1,
) -> State:
    """The state after `num_epochs` of random crops; resumes from the newest checkpoint in `folder`.

    A process decodes its rows of each batch alone. An interrupted fit ends with the bits of an undisturbed one.

    Args:
      init: the state at the start, on all devices.
      step_fn: (state, step from 0, images, labels) to the state after the step and its losses; may donate the state.
      label: what is trained, for the progress bar and errors.

    Raises:
      DivergedError: no loss of an epoch is finite.
    """
    steps, mesh = steps_per_epoch(train, batch_size), make_mesh()
    rows = local_rows(mesh, batch_size)
    with Checkpoints(folder, Retention(newest=_KEPT)) as checkpoints:
        start, state = _start_or_resume(init, checkpoints, mesh)
        batches = training_batches(
            train, image_size, batch_size, seed=seed, num_epochs=num_epochs, start_epoch=start, rows=rows
        )
        with progress_bar(num_epochs * steps, "step", label, start * steps) as bar:
            for epoch in range(start, num_epochs):
                losses = []
                for step in range(epoch * steps, (epoch + 1) * steps):
                    images, labels = next(batches)
                    state, loss = step_fn(state, step, *put_batch(mesh, (images, labels.astype(np.int32))))
                    losses.append(loss)
                    if len(losses) > _AHEAD:
                        losses[-1 - _AHEAD].block_until_ready()
                    bar.update()
                mean = np.mean(jax.device_get(losses), axis=0)
                if not np.isfinite(mean).any():
                    raise DivergedError(f"{label}: the loss is not finite in epoch {epoch + 1}; lower --config.lr")
                bar.set_postfix_str(f"epoch {epoch + 1}/{num_epochs}, least loss {np.nanmin(mean):.3f}")
                if (epoch + 1) % save_every_epochs == 0 or epoch + 1 == num_epochs:
                    checkpoints.save(epoch + 1, state, {})
        checkpoints.wait()
    return state


def score(
    count: Callable[..., Int[Array, "... 2"]], state: tuple, labelled: Labelled, image_size: int, batch_size: int
) -> Float[np.ndarray, "... 2"]:
    """Top-1 and top-5 in percent on centre crops; each process reads its share of the photos.

    Args:
      count: (*state, images [N], labels [N]) to how many are right, as `count_right`; on the devices of this process.
    """
    mesh = make_mesh(jax.local_devices())
    batch_size, count = round_batch(batch_size, mesh), partial(count, *on_each_device(mesh, state))
    image = jax.ShapeDtypeStruct((batch_size, image_size, image_size, 3), np.uint8)
    right = np.zeros(jax.eval_shape(count, image, jax.ShapeDtypeStruct((batch_size,), np.int32)).shape, np.int64)
    share = labelled._replace(examples=labelled.examples.shard(jax.process_count(), jax.process_index()))
    with progress_bar(labelled.num_images // jax.process_count(), "photo", f"scores on {labelled.name}") as bar:
        for images, labels in centre_batches(share, image_size, batch_size):
            filled = fill_batch(images, batch_size), fill_batch(labels.astype(np.int32), batch_size, -1)
            right += np.asarray(count(*jax.device_put(filled, by_batch(mesh))))
            bar.update(len(labels))
    right = multihost_utils.process_allgather(right).reshape(-1, *right.shape).sum(0)
    return 100 * right / labelled.num_images


def on_each_device(mesh: Mesh, tree: State) -> State:
    """Host or device arrays, the same in all processes, copied to every device of the mesh."""
    return jax.device_put(jax.device_get(tree), replicated(mesh))


def _start_or_resume(init: Callable[[], State], checkpoints: Checkpoints, mesh: Mesh) -> tuple[int, State]:
    """The epochs that are done, and the state after them."""
    if not checkpoints.steps():
        return 0, init()
    epoch, state, _ = checkpoints.restore_newest(jax.eval_shape(init), replicated(mesh))
    if jax.process_index() == 0:
        print(f"resuming after epoch {epoch}", flush=True)
    return epoch, state
