"""Trains linear heads on the random crops of a labelled set, and scores them on centre crops.

On all devices of all processes; a process decodes its rows of each batch alone. A probe goes on from its newest
checkpoint, with the bits of one that was never interrupted.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Float
from tqdm import tqdm

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import Labelled, centre_batches, training_batches
from univip_jax.evaluate.heads import Heads, ProbeSpec, features_fn, init_heads, make_count, make_schedule, make_step
from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.sharding import by_batch, local_rows, make_mesh, put_batch, replicated
from univip_jax.weights.encoder import Encoder

_AHEAD = 2  # steps that may be queued on the device: more would only hold batches in its memory


def train_heads(spec: ProbeSpec, encoder: Encoder, train: Labelled, image_size: int, folder: Path) -> Heads:
    """The heads of a grid after `num_epochs` epochs, as host arrays; checkpoints are in `folder`.

    Raises UserError where a batch, or a pooling, asks for more than there is, and where every head has diverged.
    """
    steps_per_epoch = train.num_images // spec.batch_size
    if not steps_per_epoch:
        raise UserError(f"batch_size={spec.batch_size} is more than the {train.num_images} photos of {train.name}")
    mesh = make_mesh()
    rows = local_rows(mesh, spec.batch_size)
    features_of = features_fn(encoder, spec)
    init = partial(init_heads, spec, _sizes(features_of, encoder, image_size), len(train.classes))
    step_fn = make_step(spec, make_schedule(spec, steps_per_epoch), features_of)
    variables = _on(mesh, encoder.variables)
    with Checkpoints(folder, Retention(newest=2)) as checkpoints:
        start, heads = _start_or_resume(init, checkpoints, mesh)
        batches = training_batches(
            train, image_size, spec.batch_size,
            seed=spec.seed, num_epochs=spec.num_epochs, start_epoch=start, rows=rows,
        )  # fmt: skip
        total = spec.num_epochs * steps_per_epoch
        with _bar(total, "step", f"{len(spec.points)} heads on {train.name}", start * steps_per_epoch) as bar:
            for epoch in range(start + 1, spec.num_epochs + 1):
                losses = []
                for step in range((epoch - 1) * steps_per_epoch, epoch * steps_per_epoch):
                    images, labels = put_batch(mesh, tuple(next(batches)))
                    heads, loss = step_fn(heads, np.int32(step), variables, images, labels)
                    losses.append(loss)
                    if len(losses) > _AHEAD:
                        losses[-1 - _AHEAD].block_until_ready()
                    bar.update()
                mean = np.mean(jax.device_get(losses), axis=0)
                if not np.isfinite(mean).any():
                    raise UserError(f"no head's loss is finite in epoch {epoch}; lower lr={spec.lr}")
                bar.set_postfix_str(f"epoch {epoch}/{spec.num_epochs}, least loss {np.nanmin(mean):.3f}")
                if epoch % spec.checkpoint_every_epochs == 0 or epoch == spec.num_epochs:
                    checkpoints.save(epoch, heads, {})
        checkpoints.wait()
    return jax.device_get(heads)


def score(
    spec: ProbeSpec, encoder: Encoder, heads: Heads, labelled: Labelled, image_size: int
) -> Float[np.ndarray, "P 2"]:
    """Top-1 and top-5 of each head in percent, NaN for a head that is not finite; each process reads its share."""
    mesh = make_mesh(jax.local_devices())
    batch_size = max(1, spec.batch_size // mesh.size) * mesh.size
    count = make_count(spec, features_fn(encoder, spec))
    variables, on_devices = _on(mesh, encoder.variables), _on(mesh, heads)
    share = labelled._replace(examples=labelled.examples.shard(jax.process_count(), jax.process_index()))
    right, seen = np.zeros((len(spec.points), 2), np.int64), 0
    with _bar(labelled.num_images // jax.process_count(), "photo", f"scores on {labelled.name}") as bar:
        for images, labels in centre_batches(share, image_size, batch_size):
            missing = batch_size - len(labels)  # the last batch is filled up, so that one program serves all
            images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
            padded = np.pad(labels, (0, missing), constant_values=-1).astype(np.int32)
            right += np.asarray(count(on_devices, variables, *jax.device_put((images, padded), by_batch(mesh))))
            seen += len(labels)
            bar.update(len(labels))
    right, seen = (multihost_utils.process_allgather(x).reshape(-1, *np.shape(x)).sum(0) for x in (right, seen))
    finite = np.concatenate([np.isfinite(heads.weights[pooling]["kernel"]).all((1, 2)) for pooling in spec.pooling])
    return np.where(finite[:, None], 100 * right / seen, np.nan)


def _start_or_resume(init, checkpoints: Checkpoints, mesh: Mesh) -> tuple[int, Heads]:
    """The epochs that are done, and the heads after them."""
    if not checkpoints.steps():
        return 0, jax.jit(init, out_shardings=replicated(mesh))()
    epoch, heads, _ = checkpoints.restore_newest(jax.eval_shape(init), replicated(mesh))
    if jax.process_index() == 0:
        print(f"going on after epoch {epoch}", flush=True)
    return epoch, heads


def _sizes(features_of, encoder: Encoder, image_size: int) -> dict[str, int]:
    """The number of features by pooling."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.uint8)
    try:
        shapes = jax.eval_shape(features_of, encoder.variables, images, None)
    except ValueError as error:  # of pool_2x2
        raise UserError(f"image_size={image_size}: {error}") from error
    return {pooling: shape.shape[1] for pooling, shape in shapes.items()}


def _on(mesh: Mesh, tree):
    """Host or device arrays, the same on all processes, to copies on every device of the mesh."""
    return jax.device_put(jax.device_get(tree), replicated(mesh))


def _bar(total: int, unit: str, what: str, initial: int = 0) -> tqdm:
    """Progress with time left, by the first process; into a log file one line a minute is enough."""
    return tqdm(
        total=total, initial=initial, unit=unit, desc=what, dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 60, disable=jax.process_index() > 0,
    )  # fmt: skip
