"""A prepared data set to batches of uint8 crops, in the order of the index: read by offset, decode once, crop."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from univip_jax.common.errors import TransientError, UserError
from univip_jax.data.crops import crop, instance_boxes, naive_boxes, scene_pair
from univip_jax.data.host import tf
from univip_jax.data.index import Index, locate
from univip_jax.data.records import Dataset, decode_image, parse, read_record
from univip_jax.types import Batch
from univip_jax.views import ViewSpec

Tree = TypeVar("Tree")


class Geometry(NamedTuple):
    """The boxes of one photo's views: float32 yxyx in [0, 1]."""

    scenes: tf.Tensor  # [2, 4]
    region: tf.Tensor  # [4]: the instances lie inside it
    instances: tf.Tensor  # [K, 4]
    proposals: tf.Tensor  # [N, 4]: the instances were chosen from these


def choose_views(record: dict[str, tf.Tensor], seed: tf.Tensor, spec: ViewSpec) -> Geometry:
    """The geometry of a parsed record's views; no pixel is touched."""
    height, width = tf.cast(record["height"], tf.float32), tf.cast(record["width"], tf.float32)
    seeds = tf.random.split(seed, 3)
    if spec.proposals == "naive":
        whole = tf.constant([0.0, 0.0, 1.0, 1.0])
        smallest = tf.minimum(float(spec.min_box_side), tf.stack([height, width]))
        proposals = naive_boxes(seeds[2], whole, height, width, smallest)
    elif spec.proposals == "annotated":
        proposals = tf.boolean_mask(record["objects"], ~record["is_crowd"])
    else:
        proposals = record["proposals"]
    scenes, region = scene_pair(seeds[0], proposals, height, width, spec)
    return Geometry(scenes, region, instance_boxes(seeds[1], proposals, region, height, width, spec), proposals)


def record_seed(seed: int, epoch: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
    """The seed of one photo in one epoch, whatever the hosts, threads and batch size."""
    key = tf.constant([seed, 0], tf.int64)
    for value in (epoch, record):
        key = tf.random.fold_in(key, value)
    return key


def _load(seed: int, spec: ViewSpec):
    def load(serialized, epoch, record):
        parsed = parse(serialized)
        geometry = choose_views(parsed, record_seed(seed, epoch, record), spec)
        image = decode_image(parsed["encoded"])
        scenes = crop(image, geometry.scenes, spec.scene_size, spec.interpolation)
        instances = crop(image, geometry.instances, spec.instance_size, spec.interpolation)
        return image, geometry, Batch(scenes, instances)

    return load


def make_batches(
    dataset: Dataset,
    index: Index,
    spec: ViewSpec,
    *,
    rows: Int[np.ndarray, " b"] | None = None,
    start: int = 0,
    stop: int | None = None,
    num_threads: int = 0,
) -> Iterator[Batch]:
    """Batches of steps `start`, `start + 1`, ... before `stop`: a pure function of the step.

    Args:
      rows: the rows of the global batch that this host feeds; all of them by default.
      num_threads: threads that decode and crop; 0: one per core.

    Raises:
      UserError: names the damaged records of the batch. None is skipped: that would change the run.
      TransientError: a record could not be read at first, but can be read again.
    """
    load = _load(index.seed, spec)

    def columns(step: int) -> tuple[np.ndarray, np.ndarray]:
        rows_of_step = index.rows(step)
        return rows_of_step.records, np.full(index.batch_size, rows_of_step.epoch)

    def views(serialized: tf.Tensor, record: tf.Tensor, epoch: tf.Tensor) -> Batch:
        return load(serialized, epoch, record)[2]

    return stream(dataset, columns, views, rows=rows, start=start, stop=stop, num_threads=num_threads)


def stream(
    dataset: Dataset,
    columns: Callable[[int], tuple[np.ndarray, ...]],
    load: Callable[..., Tree],
    *,
    rows: Int[np.ndarray, " b"] | None = None,
    start: int = 0,
    stop: int | None = None,
    num_threads: int = 0,
) -> Iterator[Tree]:
    """Batches of steps: each photo by `load`, in order, which is all that a batch depends on.

    Args:
      columns: step to int arrays of one row a photo of the global batch; the first are positions in the data set.
      load: a serialized record and its row of each column to one element of the batch, in graph.
      rows, num_threads: see `make_batches`, which also says what is raised.
    """
    place = locate(dataset)
    first = columns(start)
    rows = np.arange(len(first[0])) if rows is None else rows

    def steps() -> Iterator[tuple[np.ndarray, ...]]:
        for step in itertools.count(start):
            if step == stop:
                return
            values = tuple(column[rows] for column in columns(step))
            yield place.shards[values[0]], place.offsets[values[0]], *values

    paths = tf.constant([str(shard.path) for shard in dataset.shards])
    shapes = [(), (), *(column.shape[1:] for column in first)]
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = num_threads
    batches = (
        tf.data.Dataset.from_generator(
            steps, output_signature=tuple(tf.TensorSpec([len(rows), *shape], tf.int64) for shape in shapes)
        )
        .unbatch()
        .map(
            lambda shard, offset, *row: load(read_record(paths[shard], offset), *row),
            num_parallel_calls=num_threads or tf.data.AUTOTUNE,
        )
        .batch(len(rows), drop_remainder=True)
        .prefetch(2)
        .with_options(options)
    )
    iterator = batches.as_numpy_iterator()
    for step in itertools.count(start):
        try:
            yield next(iterator)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            raise _name_damage(dataset, columns(step)[0][rows], step, error) from error


def _name_damage(dataset: Dataset, records: Int[np.ndarray, " b"], step: int, error: tf.errors.OpError) -> UserError:
    """The error that names the damaged ones among the records of a step's batch."""
    damaged, place = [], locate(dataset)
    for record, shard, offset in zip(records, place.shards[records], place.offsets[records], strict=True):
        try:
            path = str(dataset.shards[shard].path)
            decode_image(parse(read_record(path, offset))["encoded"])
        except tf.errors.OpError as reason:
            damaged.append(f"record {record}, at byte {offset} of {path} ({reason.message.splitlines()[0]})")
    if not damaged:
        return TransientError(
            f"the batch of step {step} could not be read, but its records can be read again: "
            f"{error.message.splitlines()[0]}; the same command resumes from the newest checkpoint"
        )
    return UserError(
        f"{len(damaged)} of the {len(records)} photos of step {step} are damaged: {'; '.join(damaged[:3])}. "
        f"python -m data_prep --check={dataset.root} finds all; delete those shards and run their data_prep command, "
        "which writes the same bytes, then run the same training command: it resumes"
    )


def photo_ids(dataset: Dataset, records: Int[np.ndarray, " B"]) -> list[str]:
    """The ids of photos, by their positions in the data set."""
    place = locate(dataset)
    paths = (str(dataset.shards[shard].path) for shard in place.shards[records])
    found = map(read_record, paths, place.offsets[records])
    return [parse(serialized)["id"].numpy().decode() for serialized in found]


class Preview(NamedTuple):
    """One photo of a batch with its geometry and its crops, for people to look at."""

    image: np.ndarray  # uint8 [H, W, 3]
    geometry: Geometry
    views: Batch  # without the batch's axis: scenes [2, S, S, 3], instances [K, I, I, 3]


def preview(dataset: Dataset, index: Index, spec: ViewSpec, step: int, count: int) -> list[Preview]:
    """The first `count` photos of the batch of `step`, exactly as training sees them."""
    load = tf.function(_load(index.seed, spec))
    epoch, records = index.rows(step)
    place = locate(dataset)
    photos = []
    for record in records[:count]:
        path, offset = str(dataset.shards[place.shards[record]].path), place.offsets[record]
        loaded = load(read_record(path, offset), tf.constant(epoch, tf.int64), tf.constant(record, tf.int64))
        photos.append(Preview(*tf.nest.map_structure(lambda x: x.numpy(), loaded)))
    return photos
