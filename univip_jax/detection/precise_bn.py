"""Precise statistics of batch norm: the mean over many batches, instead of running statistics (Wu and Johnson 2021).

As Detectron2's PreciseBN: batches as in training. They continue the run's stream, so that they do not depend on when
the process began.
"""

import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from univip_jax.common.errors import UserError
from univip_jax.detection.training import DetectorRun
from univip_jax.models.norm import MOMENTUM
from univip_jax.run.log import duration
from univip_jax.sharding import put_batch
from univip_jax.types import DetectorState

_SILENT_SECONDS = 10.0


def precise_statistics(run: DetectorRun, state: DetectorState, num_batches: int) -> Any:
    """Batch statistics of the weights in `state`, means over `num_batches` batches; `state` is not changed.

    The programs of training compute them: from statistics of 0, a step leaves the batch's own times `1 - momentum`.

    Raises UserError where no batch is finite.
    """
    zeros = jax.tree.map(jnp.zeros_like, state.batch_stats)
    sums, used, begun = zeros, 0, time.perf_counter()
    printed = begun
    for number, batch in enumerate(run.span(run.total_steps, run.total_steps + num_batches), start=1):
        # The programs donate what they are given.
        mine = jax.tree.map(jnp.copy, state.replace(batch_stats=zeros))
        after, _ = run.programs[batch.images.shape[1:3]](mine, put_batch(run.mesh, batch))
        if int(after.bad_steps) == int(state.bad_steps):
            sums, used = jax.tree.map(jnp.add, sums, after.batch_stats), used + 1
        if (now := time.perf_counter()) - printed > _SILENT_SECONDS or number in (1, num_batches):
            left, printed = duration((now - begun) / number * (num_batches - number)), now
            end = "\r" if sys.stdout.isatty() and number < num_batches else "\n"
            print(f"statistics of batch norm: {number}/{num_batches} batches  {left} left", end=end, flush=True)
    if not used:
        raise UserError(
            f"{run.folder}: no batch gives finite statistics, the weights diverged: begin anew with less than "
            f"--config.schedule.lr={run.schedule.lr}"
        )
    return jax.tree.map(lambda total: total / (used * (1 - MOMENTUM)), sums)
