"""Reading a prepared data set from a bucket that answers late, beside a disk: photos/s by window, and the first batch.

    python -m benchmarks.bucket --data=PREPARED [--latency=0.05] [--seconds=10]

Needs requirements-cloud-test.txt. The data set is copied to a stand-in for Google Cloud Storage on this machine, whose
proxy adds the latency to every answer. Prints Markdown. Photos are only read (`read`), or also decoded onto canvases
(`batches`); server, proxy and reader share this machine's cores, so a bucket's own rates are lower bounds.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from configs import common
from univip_jax.common import cli as command
from univip_jax.common.files import at
from univip_jax.config import to_spec
from univip_jax.data import ranges
from univip_jax.data.cache import with_cache
from univip_jax.data.index import Index
from univip_jax.data.pipeline import make_batches
from univip_jax.data.records import Dataset, open_dataset
from univip_jax.views import ViewSpec

BATCH, WINDOWS = 32, (16, 64, 256, 1024)
_LATE = 20_000_000  # a step that no run has reached


def rate(batches: Iterator[object], photos: int, seconds: float) -> float:
    """Photos per second after the first batch; each is of `photos`."""
    next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(batches)
        count += photos
    return count / (time.perf_counter() - began)


def only_read(dataset: Dataset, index: Index, window: int) -> Iterator[object]:
    """The records of endless epochs from a bucket, in the order of training, 16 at a time."""
    orders = ((index.rows(step).records,) for step in itertools.count())
    return ranges.read_ahead(dataset, orders, window)


def _main() -> int:
    from tests.cloud.servers import Servers  # it needs more than the requirements

    given, lines = flags.FLAGS, []
    with Servers() as servers, tempfile.TemporaryDirectory() as folder:
        os.environ.update(servers.variables())
        root, address = Path(given.data), "gs://bucket/data"
        names = [path.name for path in root.iterdir() if path.is_file()]
        at(address).fs.put([str(root / name) for name in names], [f"{address}/{name}" for name in names])
        here, there = open_dataset(root), open_dataset(address)
        index, spec = Index(here, 0, BATCH), to_spec(ViewSpec, common.get_config(), "views")
        servers.gs.faults.latency = given.latency
        local = rate(make_batches(here, index, spec), BATCH, given.seconds)
        lines += [f"| a disk | | | {local:.0f} |"]
        shipped = ranges.WINDOW
        for window in WINDOWS:
            read = rate(only_read(there, index, window), 16, given.seconds)
            ranges.WINDOW = window
            batches = rate(make_batches(there, index, spec), BATCH, given.seconds)
            lines += [f"| a bucket | {window} | {read:.0f} | {batches:.0f} |"]
        ranges.WINDOW = shipped
        data = common.get_config().data
        data.cache = folder
        cached = with_cache(there, data)
        next(make_batches(cached, index, spec))
        while not all(map(cached.cache.has, range(len(cached.shards)))):
            time.sleep(0.1)
        in_cache = rate(make_batches(cached, index, spec), BATCH, given.seconds)
        lines += [f"| a bucket, all in data.cache | | | {in_cache:.0f} |"]
        first = {}
        for name, dataset in {"a disk": here, "a bucket": there}.items():
            began = time.perf_counter()
            next(make_batches(dataset, index, spec, start=_LATE))
            first[name] = time.perf_counter() - began
        began = time.perf_counter()
        open_dataset(address)
        opened = time.perf_counter() - began
    print(f"{here.num_records} photos, {1e3 * given.latency:g} ms of latency\n")
    print("| from | window | read only, photos/s | batches, photos/s |\n| --- | --- | --- | --- |")
    print("\n".join(lines))
    print(
        f"\nfirst batch at step {_LATE:,}: " + ", ".join(f"{value:.1f} s from {name}" for name, value in first.items())
    )
    print(f"opening {len(here.shards)} shards in the bucket: {opened:.1f} s")
    return 0


def _define() -> None:
    command.define_path("data", None, "A prepared data set on this machine.")
    flags.DEFINE_float("latency", 0.05, "Seconds that the server takes longer to answer.")
    flags.DEFINE_float("seconds", 10.0, "Of each measurement.")


if __name__ == "__main__":
    command.run("benchmarks.bucket", _define, ["data"], _main, interrupted="nothing was kept")
