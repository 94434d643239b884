"""Processor time per photo on the host: the shipped input pipeline, its stages, decoding alone, and the usual PyTorch.

    python -m benchmarks.input --data=PREPARED [--num_photos=128] [--rounds=7] [--json=FILE]

Prints Markdown: each pipeline compared with decoding alone, the limit; the time that each stage of the shipped
pipeline adds; how many cores feed a device; and what cutting the views costs there. A round measures all pipelines in
turn, on one thread each: trust the ratios, which are taken within a round. Other load on the machine changes processor
time only through shared caches and hyper-threads. PyTorch's row needs `torch` and `torchvision`; where they cannot be
imported, the row says so.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from benchmarks.torch_input import Photo, torch_batches
from configs import common
from univip_jax.common import cli as command
from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole
from univip_jax.config import to_spec
from univip_jax.cut import compile_cut, photo_shapes
from univip_jax.data.host import run_on_one_core, tf
from univip_jax.data.index import Index, locate
from univip_jax.data.pipeline import canvas_of, load_photo, make_batches, preview
from univip_jax.data.records import Dataset, decode_image, open_dataset, parse, read_record
from univip_jax.plan import make_plan
from univip_jax.sharding import make_mesh
from univip_jax.train_step import lower_step
from univip_jax.views import ViewSpec

BATCH = 16
LIMIT, SHIPPED, TORCH = "read and decode alone, the limit", "the shipped pipeline", "PyTorch, PIL and torchvision"
STAGES = ("read", "parse", "decode", "canvas")

Way = Callable[[], object]  # works on the next BATCH photos


def do_until(stage: str, dataset: Dataset, index: Index, spec: ViewSpec) -> Way:
    """The shipped pipeline's work up to a stage, on photos of the first epoch; TensorFlow prunes the later stages."""
    paths = tf.constant([str(shard.path) for shard in dataset.shards])
    records, place = (
        np.concatenate([index.rows(step).records for step in range(index.steps_per_epoch)]),
        locate(dataset),
    )
    columns = records, place.shards[records], place.offsets[records]

    canvas = canvas_of(dataset, spec)

    def load(record: tf.Tensor, shard: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, ...]:
        serialized = read_record(paths[shard], offset)
        parsed = parse(serialized)
        needed_later = {
            LIMIT: lambda: (decode_image(parsed["encoded"]),),
            "read": lambda: (serialized,),
            "parse": lambda: tuple(parsed.values()),
            "decode": lambda: (decode_image(parsed["encoded"]), *parsed.values()),
            "canvas": lambda: load_photo(serialized, record, tf.constant(0, tf.int64), canvas, spec),
        }
        return needed_later[stage]()

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    photos = tf.data.Dataset.from_tensor_slices(columns).repeat().map(load, num_parallel_calls=1).with_options(options)
    photos = iter(photos)
    return lambda: [next(photos) for _ in range(BATCH)]


def first_photos(dataset: Dataset, index: Index, spec: ViewSpec, count: int) -> list[Photo]:
    """The photos for PyTorch: files with the boxes of their views, so that choosing them costs it nothing."""
    found, place = [], locate(dataset)
    for step in range(count // BATCH):
        for record, photo in zip(index.rows(step).records, preview(dataset, index, spec, step, BATCH), strict=True):
            serialized = read_record(str(dataset.shards[place.shards[record]].path), place.offsets[record])
            encoded = parse(serialized)["encoded"].numpy()
            found.append(Photo(encoded, photo.geometry.scenes, photo.geometry.instances))
    return found


def settle() -> float:
    """The process's time in s, once it stands still: a pipeline fills its buffer after the last call."""
    still, now = 0, time.process_time()
    while still < 4:  # in a row: on a busy machine a thread may have to wait
        time.sleep(0.1)
        before, now = now, time.process_time()
        still = still + 1 if now - before < 0.002 else 0
    return now


def measure(ways: dict[str, Way], rounds: int, num_photos: int) -> dict[str, np.ndarray]:
    """Processor time in ms per photo, [rounds], of each pipeline; they take turns."""
    for work in ways.values():  # traces and fills buffers
        work()
    found = {name: [] for name in ways}
    with tqdm(total=rounds * len(ways), unit="way") as progress:
        for _ in range(rounds):
            for name, work in ways.items():
                start = settle()
                for _ in range(num_photos // BATCH):
                    work()
                found[name].append((settle() - start) / num_photos * 1e3)
                progress.update()
    return {name: np.array(values) for name, values in found.items()}


def spread(values: np.ndarray) -> str:
    """Median, least and largest."""
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


def table_of_ways(times: dict[str, np.ndarray], torch_missing: str) -> list[str]:
    """A row for each whole pipeline."""
    lines = ["| pipeline | ms per photo | photos/s/core | times the limit |", "| --- | --- | --- | --- |"]
    for name in (LIMIT, SHIPPED, TORCH):
        if name in times:
            rate = 1e3 / np.median(times[name])
            lines.append(f"| {name} | {spread(times[name])} | {rate:.0f} | {spread(times[name] / times[LIMIT])} |")
        else:
            lines.append(f"| {name} | not measured: {torch_missing} | | |")
    return lines


def table_of_stages(times: dict[str, np.ndarray]) -> list[str]:
    """The time that each stage adds to the stages before it, and the stage that adds most."""
    names = (*STAGES, SHIPPED)
    totals = np.stack([times[name] for name in names])
    added = np.diff(totals, axis=0, prepend=0)
    lines = ["| stage | adds, ms per photo | share |", "| --- | --- | --- |"]
    medians = np.median(added, axis=1)
    titles = (*STAGES, "order, batch, to NumPy")
    for title, values, median in zip(titles, added, medians, strict=True):
        lines.append(f"| {title} | {spread(values)} | {median / medians.sum():.0%} |")
    return [*lines, "", f"The bottleneck: {titles[int(medians.argmax())]}."]


def cores(images_per_second: float, milliseconds: float) -> str:
    """The number of cores that feed a device at `images_per_second`, by arithmetic."""
    needed = images_per_second * milliseconds / 1e3
    return f"One device: {images_per_second:,.0f} images/s x {milliseconds:.2f} ms = {needed:.1f} cores."


def device_cost(dataset: Dataset, spec: ViewSpec) -> dict[str, float]:
    """FLOPs and bytes an image of the program that cuts the views, as XLA counts them, and of the whole step."""
    config = common.get_config()
    config.batch_size = BATCH
    plan, mesh = make_plan(config, BATCH), make_mesh(jax.devices()[:1])
    shapes = photo_shapes(BATCH, *canvas_of(dataset, spec)[:3])
    cut = compile_cut(spec, 0, shapes, mesh).cost_analysis()
    return {
        "cut_gflop_per_image": cut["flops"] / BATCH / 1e9,
        "step_gflop_per_image": lower_step(plan, mesh).cost_analysis()["flops"] / BATCH / 1e9,
        "cut_bytes_per_image": cut["bytes accessed"] / BATCH,
        "shipped_bytes_per_image": sum(x.size * x.dtype.itemsize for x in shapes) / BATCH,
    }


def _define() -> None:
    command.define_path("data", None, "A data set prepared by `python -m data_prep`.")
    command.define_path("json", None, "File for all figures.")
    flags.DEFINE_integer("num_photos", 128, f"Photos per round; rounded down to a multiple of {BATCH}.", BATCH)
    flags.DEFINE_integer("rounds", 7, "How often each pipeline is measured.", 1)
    flags.DEFINE_float("images_per_second", 1250.0, "Speed of the device, as measured by benchmarks.step.", 0.0)


def _main() -> None:
    options = flags.FLAGS
    run_on_one_core()
    dataset = open_dataset(options.data)
    num_photos = options.num_photos // BATCH * BATCH
    spec, index = to_spec(ViewSpec, common.get_config(), "views"), Index(dataset, 0, BATCH)
    batches = make_batches(dataset, index, spec, num_threads=1)
    ways: dict[str, Way] = {name: do_until(name, dataset, index, spec) for name in (LIMIT, *STAGES)}
    ways[SHIPPED] = lambda: next(batches)
    torch_missing = ""
    try:
        others = torch_batches(first_photos(dataset, index, spec, num_photos), spec, BATCH)
        ways[TORCH] = lambda: next(others)
    except UserError as error:
        torch_missing = str(error)
    times = measure(ways, options.rounds, num_photos)
    size = f"2 x {spec.scene_size} + {spec.num_instances} x {spec.instance_size}"
    print(f"\n{num_photos} photos per round, {options.rounds} rounds, {size}; median (least to largest).\n")
    print("\n".join(table_of_ways(times, torch_missing)), "\n".join(table_of_stages(times)), sep="\n\n")
    print("\n" + cores(options.images_per_second, float(np.median(times[SHIPPED]))))
    cost = device_cost(dataset, spec)
    print(
        f"The device cuts the views: {cost['cut_gflop_per_image']:.2f} GFLOP an image, "
        f"{cost['cut_gflop_per_image'] / cost['step_gflop_per_image']:.1%} of the step's "
        f"{cost['step_gflop_per_image']:.2f}; it gets {cost['shipped_bytes_per_image'] / 1e6:.2f} MB an image."
    )
    if options.json:
        found = {"times_limit": float(np.median(times[SHIPPED] / times[LIMIT])), **cost}
        found["ms_per_photo"] = {name: values.tolist() for name, values in times.items()}
        write_whole(Path(options.json), json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    command.run("benchmarks.input", _define, ["data"], _main, interrupted="nothing was written")
