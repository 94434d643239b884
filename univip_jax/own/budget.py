"""What a device holds and how fast it is: by the compiled program and by the first steps of the run itself."""

import os
import time
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from univip_jax.common.errors import UserError
from univip_jax.plan import Plan
from univip_jax.run.pretraining import Pretraining
from univip_jax.sharding import put_batch, replicated
from univip_jax.train_step import compile_step

_SHARE = 0.9  # of a device's memory that the step may take: the cut, and what XLA cannot use, need the rest
_WARM_UP, _LEAST_STEPS, _LEAST_SECONDS = 2, 5, 8.0  # steps that are not timed, and how long is timed


def device_memory(device: jax.Device) -> int:
    """Bytes that JAX may use on it; on a CPU those that are available now."""
    if limit := (device.memory_stats() or {}).get("bytes_limit"):
        return limit
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def step_memory(plan: Plan, mesh: Mesh) -> int:
    """Bytes on each device that the compiled step takes, its state and batch among them; 0 where nobody knows."""
    memory = compile_step(plan, mesh).memory_analysis()
    if not memory:
        return 0
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.temp_size_in_bytes + held


def fit_batch(make: Callable[[int], Plan], batch_size: int, mesh: Mesh) -> tuple[Plan, int, int]:
    """The plan with the largest batch, up to `batch_size`, whose step fits; its bytes, and those of a device.

    Raises UserError: not even one image for each device fits.
    """
    limit = device_memory(mesh.devices.flat[0])
    while (needed := step_memory(plan := make(batch_size), mesh)) > _SHARE * limit:
        if batch_size == mesh.size:
            raise UserError(
                f"one image for each device takes {needed / 2**30:.1f} GiB and there are {limit / 2**30:.1f}: give a "
                "smaller --backbone=resnet18 or --scene_size=128, or use devices with more memory"
            )
        # What does not grow with the batch makes this a little too small, never too large.
        batch_size = max(mesh.size, int(batch_size * _SHARE * limit / needed) // mesh.size * mesh.size)
    return plan, needed, limit


def time_steps(run: Pretraining) -> tuple[float, float]:
    """Seconds of a step from photo to update, and until the first was done: what compiling takes."""
    began = time.monotonic()
    step = compile_step(run.plan, run.mesh)
    state, done = jax.jit(run.init_state, out_shardings=replicated(run.mesh))(), 0
    for photos in run.batches(0):
        state, metrics = step(state, run.cut(put_batch(run.mesh, photos)))
        jax.block_until_ready(metrics)
        done += 1
        if done == _WARM_UP:
            start = time.monotonic()
        elif done >= _WARM_UP + _LEAST_STEPS and time.monotonic() - start > _LEAST_SECONDS:
            break
    return (time.monotonic() - start) / (done - _WARM_UP), start - began
