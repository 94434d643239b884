"""From a rate on one H200 to efficiency and hours on many devices: arithmetic, explained in docs/scaling.md.

A step takes `compute + rounds * latency + sent bytes / bandwidth`; nothing overlaps. An image takes the same share of
the peak on every device, whatever the batch.
"""

from dataclasses import dataclass

import jax

from configs import coco
from univip_jax.plan import make_plan
from univip_jax.reproduce.rows import PHOTOS

PASSES = 3  # scene 1, scene 2, instances
IMAGES_PER_SECOND = 1000.0  # of one H200: a goal, not measured
INPUT_SECONDS = 11.0e-3  # to decode and crop one image on one core, measured (docs/results.md)


@dataclass(frozen=True)
class Network:
    """What a step sends. A norm reduces once per pass; the online norms in the gradient too."""

    parameter_bytes: int
    statistics_bytes: int  # in all reductions of norms in a step
    num_reductions: int  # of norms in a step, if none are combined


@dataclass(frozen=True)
class Machine:
    """Devices of one kind."""

    name: str
    num_devices: int
    peak_flops: float  # per s, bfloat16
    sent_bandwidth: float  # bytes/s that a device sends while it receives as many
    latency: float  # s, of one small all-reduce
    combined: float  # reductions of norms that the compiler sends as one


@dataclass(frozen=True)
class Run:
    """A data set and a recipe."""

    name: str
    num_photos: int
    num_epochs: float
    batch_size: int


H200 = Machine("1 H200", 1, 989e12, 450e9, 20e-6, 1.0)
MACHINES = (
    H200,
    Machine("8 H200 (NVLink)", 8, 989e12, 450e9, 20e-6, 1.0),
    Machine("TPU v5e-64 (64 chips)", 64, 197e12, 200e9, 10e-6, 4.9),
    Machine("TPU v5p-256 (128 chips)", 128, 459e12, 600e9, 10e-6, 4.9),
)
RUNS = (
    Run("COCO, 800 epochs", PHOTOS["coco"], 800, 512),
    Run("ImageNet, 300 epochs", PHOTOS["imagenet"], 300, 4096),
    Run("100 million photos, 10 epochs", 100_000_000, 10, 4096),
)


def resnet50() -> Network:
    """UniVIP's ResNet-50 with K = 4, from its state."""
    state = jax.eval_shape(make_plan(coco.get_config(), PHOTOS["coco"]).init_state)
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    norms = lambda tree: len(jax.tree.leaves(tree)) // 2  # noqa: E731  a mean and a variance each
    return Network(
        parameter_bytes=size(state.params),
        statistics_bytes=PASSES * (2 * size(state.batch_stats) + size(state.target_batch_stats)),
        num_reductions=PASSES * (2 * norms(state.batch_stats) + norms(state.target_batch_stats)),
    )


def compute_seconds(machine: Machine, images: float, images_per_second: float) -> float:
    """Seconds for `images` on one device, if one H200 does `images_per_second`."""
    return images / (images_per_second * machine.peak_flops / H200.peak_flops)


def communication_seconds(network: Network, machine: Machine) -> float:
    """Seconds per step: the reductions wait for each other, and a ring sends all bytes twice, except a device's own."""
    if machine.num_devices == 1:
        return 0.0
    rounds = network.num_reductions / machine.combined + 1
    sent = 2 * (1 - 1 / machine.num_devices) * (network.parameter_bytes + network.statistics_bytes)
    return rounds * machine.latency + sent / machine.sent_bandwidth


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
    """`run` on `machine`, if one H200 does `images_per_second`."""
    compute = compute_seconds(machine, run.batch_size / machine.num_devices, images_per_second)
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


def report(network: Network, images_per_second: float) -> str:
    """The table of docs/scaling.md."""
    columns = "run | machine | compute + communication, ms | efficiency | images/s | hours | cores for input"
    lines = [f"| {columns} |", f"|{' --- |' * 7}"]
    for run in RUNS:
        for machine in MACHINES:
            found = predict(network, machine, run, images_per_second)
            lines.append(
                f"| {run.name} | {machine.name} | {found.compute * 1e3:.1f} + {found.communication * 1e3:.1f} "
                f"| {found.efficiency:.2f} | {found.images_per_second:,.0f} | {found.hours:,.1f} "
                f"| {found.input_cores:.0f} |"
            )
    return "\n".join(lines)
