"""The train step, compiled for many devices but not run: collectives, memory, time to compile.

`python -m benchmarks.scaling.program [TOPOLOGY]` reads a config as JSON from stdin and writes a `Program` to stdout:
for the CPU devices that XLA_FLAGS simulates, or for a TPU slice such as v5e:8x8 (needs libtpu, but no TPU). It is a
process of its own because JAX fixes the number of devices when it starts.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.experimental import topologies
from ml_collections import ConfigDict

from benchmarks.scaling.collectives import Collective, Tensor, read_collectives
from univip_jax.common.cli import call
from univip_jax.common.errors import UserError
from univip_jax.plan import make_plan
from univip_jax.reproduce.rows import PHOTOS
from univip_jax.sharding import make_mesh
from univip_jax.train_step import lower_step


@dataclass(frozen=True)
class Program:
    """A compiled step. Bytes are per device: arguments are state and batch, temporaries all else at the peak."""

    device: str
    num_devices: int
    images: int  # per step, on all devices
    parameter_bytes: int
    argument_bytes: int
    temporary_bytes: int
    flops_per_image: float
    compile_seconds: float
    collectives: tuple[Collective, ...]


def compile_step(config: ConfigDict, num_photos: int, devices: Sequence[jax.Device]) -> Program:
    """Compiles the step for `devices`, which may belong to a topology that this machine lacks."""
    plan, mesh = make_plan(config, num_photos), make_mesh(devices)
    lowered = lower_step(plan, mesh)
    start = time.monotonic()
    compiled = lowered.compile()
    seconds = time.monotonic() - start
    memory = compiled.memory_analysis()
    return Program(
        device=devices[0].device_kind,
        num_devices=mesh.size,
        images=plan.batch_size,
        parameter_bytes=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(plan.init_state).params)),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        flops_per_image=compiled.cost_analysis()["flops"] * mesh.size / plan.batch_size,
        compile_seconds=seconds,
        collectives=tuple(read_collectives(compiled.as_text(), mesh.size)),
    )


def from_json(text: str) -> Program:
    """Reads what this module's command writes."""
    values = json.loads(text)
    collectives = (
        Collective(**{**one, "tensors": tuple(Tensor(**tensor) for tensor in one["tensors"])})
        for one in values.pop("collectives")
    )
    return Program(**values, collectives=tuple(collectives))


def _work() -> None:
    config = ConfigDict(json.load(sys.stdin))
    devices = jax.devices()
    if len(sys.argv) > 1:
        try:
            devices = topologies.get_topology_desc(sys.argv[1], platform="tpu").devices
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"cannot compile for --tpu={sys.argv[1]} ({error}): install requirements-tpu.txt and name a slice, "
                "e.g. v5e:8x8"
            ) from error
    json.dump(dataclasses.asdict(compile_step(config, PHOTOS["coco"], devices)), sys.stdout)


if __name__ == "__main__":
    call("python -m benchmarks.scaling", _work, interrupted="run it again")
