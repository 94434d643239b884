"""From a network, a machine and a data set to efficiency, hours and cost: arithmetic, as docs/scaling.md explains it.

A step takes `compute + rounds * latency + sent bytes / bandwidth`: nothing is taken to overlap. An image costs the same
share of the peak on every device, whatever the batch.
"""

from dataclasses import dataclass

import jax

from configs import coco
from univip_jax.common.errors import UserError
from univip_jax.plan import make_plan

PASSES = 3  # scene 1, scene 2, instances


@dataclass(frozen=True)
class Network:
    """What a step of a network computes and sends. A norm reduces once a pass; the online ones in the gradient too."""

    flops_per_image: float
    parameter_bytes: int
    statistics_bytes: int  # of all reductions of norms in a step
    num_reductions: int  # of norms in a step, if none are combined


@dataclass(frozen=True)
class Machine:
    """Devices of one kind. `sent_bandwidth` is bytes/s that one sends while it receives as many.

    `combined` reductions of norms go as one: those of passes that do not wait for each other.
    """

    name: str
    num_devices: int
    peak_flops: float  # per s, bfloat16
    sent_bandwidth: float
    latency: float  # s, of one small all-reduce
    combined: float
    price: str  # its name among the prices


@dataclass(frozen=True)
class Collection:
    """Photos and a recipe."""

    name: str
    num_photos: int
    num_epochs: float
    batch_size: int
    bytes_per_photo: float


@dataclass(frozen=True)
class Assumptions:
    """What a reader may know better; the flags of the command."""

    images_per_second: float  # of one H200
    input_seconds: float  # of one core, a photo: reading, cropping
    proposal_seconds: float  # of one core, a photo
    prices: dict[str, float]  # USD per device-hour, core-hour and GB-month


H200 = Machine("8 H200 (NVLink)", 8, 989e12, 450e9, 20e-6, 1.0, "h200")
MACHINES = (
    H200,
    Machine("TPU v5e-64 (64 chips, 8 x 8)", 64, 197e12, 200e9, 10e-6, 4.9, "v5e"),
    Machine("TPU v5p-256 (256 cores: 128 chips, 4 x 4 x 8)", 128, 459e12, 600e9, 10e-6, 4.9, "v5p"),
)
COLLECTIONS = (
    Collection("COCO, 800 epochs", 118_287, 800, 512, 176e3),
    Collection("ImageNet, 300 epochs", 1_281_167, 300, 4096, 117e3),
    Collection("100 million photos, 10 epochs", 100_000_000, 10, 4096, 176e3),
)
PRICES = {"h200": 4.0, "v5e": 1.2, "v5p": 4.2, "core": 0.04, "gb_month": 0.02}
DEFAULTS = Assumptions(images_per_second=1000.0, input_seconds=11.0e-3, proposal_seconds=0.371, prices=PRICES)


def resnet50() -> Network:
    """ResNet-50, 224/96, K = 4, UniVIP: FLOPs as XLA counts them (docs/benchmarks.md), the rest from its state."""
    state = jax.eval_shape(make_plan(coco.get_config(), COLLECTIONS[0].num_photos).init_state)
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    norms = lambda tree: len(jax.tree.leaves(tree)) // 2  # noqa: E731  a mean and a variance each
    return Network(
        flops_per_image=87.48e9,
        parameter_bytes=size(state.params),
        statistics_bytes=PASSES * (2 * size(state.batch_stats) + size(state.target_batch_stats)),
        num_reductions=PASSES * (2 * norms(state.batch_stats) + norms(state.target_batch_stats)),
    )


def compute_seconds(network: Network, machine: Machine, images: float, images_per_second: float) -> float:
    """Of `images` on one device, at the share of its peak that `images_per_second` are of an H200's."""
    share = images_per_second * network.flops_per_image / H200.peak_flops
    return images * network.flops_per_image / (share * machine.peak_flops)


def communication_seconds(network: Network, machine: Machine) -> float:
    """Of a step: each reduction waits for the one before it, and a ring sends everything twice but for its own part."""
    rounds = network.num_reductions / machine.combined + 1
    sent = 2 * (1 - 1 / machine.num_devices) * (network.parameter_bytes + network.statistics_bytes)
    return rounds * machine.latency + sent / machine.sent_bandwidth


@dataclass(frozen=True)
class Prediction:
    """Of one run on one machine."""

    compute: float  # s a step
    communication: float  # s a step
    efficiency: float  # share of the images/s that as many single devices would have
    images_per_second: float  # of the machine
    hours: float
    cost: float  # USD, of the devices
    input_cores: float  # that keep up


def predict(network: Network, machine: Machine, collection: Collection, given: Assumptions) -> Prediction:
    """Hours and cost of training alone; see `preparation` for the data."""
    images = collection.batch_size / machine.num_devices
    compute = compute_seconds(network, machine, images, given.images_per_second)
    communication = communication_seconds(network, machine)
    rate = collection.batch_size / (compute + communication)
    hours = collection.num_photos * collection.num_epochs / rate / 3600
    return Prediction(
        compute=compute,
        communication=communication,
        efficiency=compute / (compute + communication),
        images_per_second=rate,
        hours=hours,
        cost=hours * machine.num_devices * given.prices[machine.price],
        input_cores=rate * given.input_seconds,
    )


def preparation(collection: Collection, given: Assumptions) -> tuple[float, float, float, float]:
    """Core-hours of proposals, their cost in USD, GB stored, USD a month for it."""
    core_hours = collection.num_photos * given.proposal_seconds / 3600
    stored = collection.num_photos * collection.bytes_per_photo / 1e9
    return core_hours, core_hours * given.prices["core"], stored, stored * given.prices["gb_month"]


def parse_prices(texts: list[str]) -> dict[str, float]:
    """PRICES with those of NAME=USD replaced; UserError that names what is wrong."""
    prices = dict(PRICES)
    for text in texts:
        name, _, value = text.partition("=")
        try:
            if name not in prices or float(value) < 0:
                raise ValueError
            prices[name] = float(value)
        except ValueError:
            raise UserError(f"--prices={text}: give NAME=USD with a name of {', '.join(prices)}") from None
    return prices


def report(network: Network, given: Assumptions) -> str:
    """The tables of docs/scaling.md."""
    lines = [
        "| run | machine | images a device | compute + communication, ms | efficiency | images/s | hours | USD "
        "| cores of input |",
        "| --- " * 9 + "|",
    ]
    for collection in COLLECTIONS:
        for machine in MACHINES:
            run = predict(network, machine, collection, given)
            lines.append(
                f"| {collection.name} | {machine.name} | {collection.batch_size // machine.num_devices} "
                f"| {run.compute * 1e3:.1f} + {run.communication * 1e3:.1f} | {run.efficiency:.2f} "
                f"| {run.images_per_second:,.0f} | {run.hours:,.1f} | {run.cost:,.0f} | {run.input_cores:.0f} |"
            )
    lines += ["", "| photos | proposals, core-hours | USD | stored, GB | USD a month |", "| --- " * 5 + "|"]
    for collection in COLLECTIONS:
        core_hours, cost, stored, month = preparation(collection, given)
        lines.append(f"| {collection.num_photos:,} | {core_hours:,.0f} | {cost:,.2f} | {stored:,.0f} | {month:,.2f} |")
    return "\n".join(lines)
