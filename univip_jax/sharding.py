"""One mesh axis, `data`, over all devices of all hosts; the state is on each of them, a batch is split."""

import os
from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from univip_jax.common.errors import UserError

Tree = TypeVar("Tree")
_OPTIONS = {
    "gpu": {
        # Else sums by atomics (gradients of kernels and of gathers) differ from run to run, in the same program.
        "xla_gpu_exclude_nondeterministic_ops": True,
        # Each process measures its share of the candidates; by default JAX lets only the first store what it chose.
        "xla_gpu_experimental_autotune_cache_mode": "AUTOTUNE_CACHE_MODE_UPDATE",
    },
    # The pass turns gradients of small maps into forms for which XLA has no fast code (demo/notes.md).
    "cpu": {"xla_disable_hlo_passes": "algsimp"},
}


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of `devices`, by default all of all hosts."""
    devices = jax.devices() if devices is None else devices
    # The default axis type, Explicit, would ask each operation for its sharding; GSPMD (Auto) derives them.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh) -> NamedSharding:
    """Axis 0 split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def step_options(platform: str) -> dict[str, bool | str]:
    """XLA's options for a train step; what XLA_FLAGS names stays.

    On GPUs the step repeats bit for bit, also after a restart; on CPUs it is several times as fast.
    """
    given = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in _OPTIONS.get(platform, {}).items() if name not in given}


def local_rows(mesh: Mesh, batch_size: int, field: str = "batch_size") -> np.ndarray:
    """The rows of the global batch that this process feeds, in the order in which it feeds them.

    Read from the sharding's own index map, because a process's devices need not hold a contiguous block.

    Raises UserError, which names the config's field, where the batch cannot be split evenly.
    """
    if batch_size < 1 or batch_size % mesh.size:
        raise UserError(
            f"{field}={batch_size} is not divisible by the {mesh.size} devices; the nearest that is: "
            f"--config.{field}={max(1, round(batch_size / mesh.size)) * mesh.size}"
        )
    slices = by_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
    starts = sorted({index[0].indices(batch_size)[:2] for index in slices})
    return np.concatenate([np.arange(start, stop) for start, stop in starts])


def put_batch(mesh: Mesh, batch: Tree) -> Tree:
    """Host arrays of this process's rows to one global array each."""
    sharding = by_batch(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def of_first_process(numbers: Sequence[int]) -> list[int]:
    """What process 0 gives, in every process; the others may give other numbers, or another count of them.

    For what each would see for itself, as the files of a folder, but perhaps at another moment.
    """
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    padded = np.zeros(count, np.int32)
    padded[: min(count, len(numbers))] = numbers[:count]
    return multihost_utils.broadcast_one_to_all(padded).tolist()
