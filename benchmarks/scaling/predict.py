"""From the rate of one device to efficiency and hours on many: arithmetic, explained in docs/scaling.md.

A step takes `compute + rounds * latency + sent bytes / bandwidth`; nothing overlaps. An image takes the same time
whatever the batch.
"""

from dataclasses import dataclass

import jax

from configs import coco
from univip_jax.plan import make_plan
from univip_jax.reproduce.rows import PHOTOS

PASSES = 3  # scene 1, scene 2, instances
INPUT_SECONDS = 2.4e-3  # of one core, to read and decode an image that the accelerator crops (docs/results.md)


@dataclass(frozen=True)
class Network:
    """What a step sends."""

    parameter_bytes: int
    statistics_bytes: int  # in all reductions of norms in a step


@dataclass(frozen=True)
class Machine:
    """Devices of one kind."""

    name: str
    num_devices: int
    images_per_second: float  # of one device: a goal
    most_images_per_second: float  # of one device: the upper end
    sent_bandwidth: float  # bytes/s that a device sends while it receives as many
    latency: float  # s, of one small all-reduce
    rounds: int  # all-reduces in a step that wait for each other


@dataclass(frozen=True)
class Run:
    """A data set and a recipe."""

    name: str
    num_photos: int
    num_epochs: float
    batch_size: int


MACHINES = (
    Machine("1 H100", 1, 1250, 2000, 450e9, 20e-6, 159),
    Machine("1 H200", 1, 1500, 2200, 450e9, 20e-6, 159),
    Machine("8 H100 (NVLink)", 8, 1250, 2000, 450e9, 20e-6, 159),
    Machine("8 H200 (NVLink)", 8, 1500, 2200, 450e9, 20e-6, 159),
    Machine("TPU v5e-8", 8, 515, 905, 200e9, 10e-6, 101),
    Machine("TPU v5e-64", 64, 515, 905, 200e9, 10e-6, 101),
)
RUNS = (
    Run("COCO, 800 epochs", PHOTOS["coco"], 800, 512),
    Run("ImageNet, 300 epochs", PHOTOS["imagenet"], 300, 4096),
)


def resnet50() -> Network:
    """UniVIP's ResNet-50 with K = 4, from its state."""
    state = jax.eval_shape(make_plan(coco.get_config(), PHOTOS["coco"]).init_state)
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    return Network(
        parameter_bytes=size(state.params),
        statistics_bytes=PASSES * (2 * size(state.batch_stats) + size(state.target_batch_stats)),
    )


def communication_seconds(network: Network, machine: Machine) -> float:
    """Seconds per step: the reductions wait for each other, and a ring sends all bytes twice, except a device's own."""
    if machine.num_devices == 1:
        return 0.0
    sent = 2 * (1 - 1 / machine.num_devices) * (network.parameter_bytes + network.statistics_bytes)
    return machine.rounds * machine.latency + sent / machine.sent_bandwidth


@dataclass(frozen=True)
class Prediction:
    """One run on one machine."""

    compute: float  # s per step
    communication: float  # s per step
    efficiency: float  # share of the images/s that as many single devices would have
    images_per_second: float  # of the machine
    hours: float
    input_cores: float  # that keep up


def predict(network: Network, machine: Machine, run: Run, images_per_second: float) -> Prediction:
    """`run` on `machine`, if one of its devices does `images_per_second`."""
    compute = run.batch_size / machine.num_devices / images_per_second
    communication = communication_seconds(network, machine)
    rate = run.batch_size / (compute + communication)
    return Prediction(
        compute=compute,
        communication=communication,
        efficiency=compute / (compute + communication),
        images_per_second=rate,
        hours=run.num_photos // run.batch_size * run.batch_size * run.num_epochs / rate / 3600,
        input_cores=rate * INPUT_SECONDS,
    )


def report(network: Network, images_per_second: float | None) -> str:
    """The table of docs/scaling.md; with `images_per_second`, for that rate of one device of each kind."""
    columns = "run | machine | compute + communication, ms | efficiency | images/s | hours | at least | cores for input"
    lines = [f"| {columns} |", f"|{' --- |' * 8}"]
    for run in RUNS:
        for machine in MACHINES:
            found = predict(network, machine, run, images_per_second or machine.images_per_second)
            most = predict(network, machine, run, images_per_second or machine.most_images_per_second)
            lines.append(
                f"| {run.name} | {machine.name} | {found.compute * 1e3:.1f} + {found.communication * 1e3:.1f} "
                f"| {found.efficiency:.2f} | {found.images_per_second:,.0f} | {found.hours:,.1f} | {most.hours:,.1f} "
                f"| {found.input_cores:.0f} |"
            )
    return "\n".join(lines)
