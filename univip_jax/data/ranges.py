"""The records of a data set, in the order in which they are wanted: from a disk, or by ranges of bytes from a bucket.

A bucket answers after some 50 ms, so `WINDOW` records are asked for ahead. Each is verified by its checksums. With a
`ShardCache` whole shards come to this machine meanwhile, and their records are read there from then on.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from univip_jax.common.buckets import is_bucket, of_store, store
from univip_jax.data.host import tf
from univip_jax.data.index import locate
from univip_jax.data.records import Dataset, read_record
from univip_jax.data.tfrecord import unframed

WINDOW = 256  # records that are asked for ahead: 50 ms of latency let 5,000 a second through
WINDOW_BYTES = 256 << 20  # of them together, at most: large photos are fewer
_CHUNK = 16  # records that are handed on at once: TensorFlow takes 0.1 ms each time
_THREADS = 16  # that read the cache's disk

Columns = tuple[np.ndarray, ...]  # one row a record; the first are positions in the data set


class Source(NamedTuple):
    """Rows for `tf.data`: each begins with a place, which `read` turns into a serialized record in graph."""

    rows: tf.data.Dataset
    read: Callable[[Any], tf.Tensor]
    failed: list[Exception]  # what reading raised: the rows end there, for TensorFlow would print its traceback

    def cause(self, end: Exception) -> Exception:
        """Why iterating ended with `end`."""
        return self.failed[0] if self.failed else end


def source(dataset: Dataset, columns: Callable[[], Iterator[Columns]], shapes: Iterable[tuple]) -> Source:
    """The rows of the columns, in order, each with the place of its record.

    Args:
      shapes: of one row of each column.
    """
    rows = [tf.TensorSpec([None, *shape], tf.int64) for shape in shapes]
    failed: list[Exception] = []
    if is_bucket(dataset.root):
        signature = (tf.TensorSpec([None], tf.string), *rows)

        def fetched() -> Iterator[tuple]:
            try:
                yield from read_ahead(dataset, columns(), WINDOW)
            except Exception as error:
                failed.append(error)

        return Source(tf.data.Dataset.from_generator(fetched, output_signature=signature).unbatch(), _given, failed)
    place = locate(dataset)
    paths = tf.constant([str(shard.path) for shard in dataset.shards])

    def located() -> Iterator[tuple]:
        for values in columns():
            yield (place.shards[values[0]], place.offsets[values[0]]), *values

    signature = ((tf.TensorSpec([None], tf.int64),) * 2, *rows)
    read = tf.data.Dataset.from_generator(located, output_signature=signature).unbatch()
    return Source(read, lambda found: read_record(paths[found[0]], found[1]), failed)


def _given(serialized: tf.Tensor) -> tf.Tensor:
    return serialized


def read_ahead(dataset: Dataset, columns: Iterable[Columns], window: int) -> Iterator[tuple[list[bytes], *Columns]]:
    """Rows with the serialized records of a data set in a bucket, in order, few at a time.

    Raises:
      tf.errors.DataLossError: a record is damaged.
      UserError: no right. TransientError: the bucket cannot be reached.
    """
    ranges = _Ranges(dataset, window)
    queue: deque[tuple[Columns, list[Callable[[], bytes]]]] = deque()
    ahead = ahead_bytes = 0

    def oldest() -> tuple[list[bytes], *Columns]:
        nonlocal ahead, ahead_bytes
        values, waiting = queue.popleft()
        ahead, ahead_bytes = ahead - len(waiting), ahead_bytes - int(ranges.sizes[values[0]].sum())
        return [wait() for wait in waiting], *values

    with ranges:
        for whole in columns:
            for start in range(0, len(whole[0]), _CHUNK):
                values = tuple(column[start : start + _CHUNK] for column in whole)
                queue.append((values, [ranges.ask(record) for record in values[0].tolist()]))
                ahead, ahead_bytes = ahead + len(values[0]), ahead_bytes + int(ranges.sizes[values[0]].sum())
                while len(queue) > 1 and (ahead > window or ahead_bytes > WINDOW_BYTES):
                    yield oldest()
        while queue:
            yield oldest()


class _Ranges:
    """Asks for records by their positions; `with` ends its threads."""

    def __init__(self, dataset: Dataset, window: int):
        self._root, self._place = dataset.root, locate(dataset)
        self._names = [entry["name"] for entry in dataset.manifest["shards"]]
        ends = [entry["bytes"] for entry in dataset.manifest["shards"]]
        offsets = [np.append(shard.offsets, end) for shard, end in zip(dataset.shards, ends, strict=True)]
        self.sizes = np.concatenate(list(map(np.diff, offsets)))  # bytes, with their frames
        self._store = store(dataset.root, window)
        self._cache = dataset.cache
        self._pool = ThreadPoolExecutor(_THREADS) if self._cache else None

    def __enter__(self) -> "_Ranges":
        if self._cache:
            self._cache.begin()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def ask(self, record: int) -> Callable[[], bytes]:
        """Begins to read a record; the function waits for it."""
        shard, start, size = int(self._place.shards[record]), int(self._place.offsets[record]), int(self.sizes[record])
        if self._cache and self._cache.has(shard):
            near = self._pool.submit(self._cache.read, shard, start, size)
            return lambda: near.result() or self._asked(shard, start, size)()
        return self._asked(shard, start, size)

    def _asked(self, shard: int, start: int, size: int) -> Callable[[], bytes]:
        future = self._store.read(self._names[shard], byte_range=slice(start, start + size))

        def wait() -> bytes:
            where = f"{self._root / self._names[shard]}: the record at byte {start}"
            try:
                found = of_store(self._root, lambda: future.result())
            except ValueError as error:  # TensorStore's for a range beyond the object's end
                raise tf.errors.DataLossError(None, None, f"{where} does not read: {str(error)[:160]}") from error
            if found.state == "missing":
                raise tf.errors.DataLossError(None, None, f"{where} is gone with its shard")
            return unframed(found.value, where)

        return wait
