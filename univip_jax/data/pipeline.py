"""A prepared data set to batches of uint8 crops, in the order of the index: read by offset, decode once, crop."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from univip_jax.common.errors import TransientError, UserError
from univip_jax.data.crops import crop, instance_boxes, naive_boxes, scene_pair
from univip_jax.data.host import tf
from univip_jax.data.index import Index
from univip_jax.data.records import Dataset, decode_image, parse, read_record
from univip_jax.types import Batch
from univip_jax.views import ViewSpec


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


def _load(dataset: Dataset, seed: int, spec: ViewSpec):
    paths = tf.constant([str(shard.path) for shard in dataset.shards])

    def load(epoch, record, shard, offset):
        parsed = parse(read_record(paths[shard], offset))
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
    rows = np.arange(index.batch_size) if rows is None else rows

    def steps():
        step = start
        while stop is None or step < stop:
            epoch, records, shards, offsets = index.rows(step)
            yield np.full(len(rows), epoch), records[rows], shards[rows], offsets[rows]
            step += 1

    load = _load(dataset, index.seed, spec)
    signature = tuple(tf.TensorSpec([len(rows)], tf.int64) for _ in range(4))
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = num_threads
    batches = (
        tf.data.Dataset.from_generator(steps, output_signature=signature)
        .unbatch()
        .map(lambda *row: load(*row)[2], num_parallel_calls=num_threads or tf.data.AUTOTUNE)
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
            raise _name_damage(dataset, index, step, rows, error) from error


def _name_damage(dataset: Dataset, index: Index, step: int, rows: np.ndarray, error: tf.errors.OpError) -> UserError:
    """The error that names the damaged records of a step's batch."""
    _, records, shards, offsets = index.rows(step)
    damaged = []
    for row in rows:
        try:
            path = str(dataset.shards[shards[row]].path)
            decode_image(parse(read_record(path, offsets[row]))["encoded"])
        except tf.errors.OpError as reason:
            place = f"record {records[row]}, at byte {offsets[row]} of {path}"
            damaged.append(f"{place} ({reason.message.splitlines()[0]})")
    if not damaged:
        return TransientError(
            f"the batch of step {step} could not be read, but its records can be read again: "
            f"{error.message.splitlines()[0]}; the same command resumes from the newest checkpoint"
        )
    return UserError(
        f"{len(damaged)} of the {len(rows)} photos of step {step} are damaged: {'; '.join(damaged[:3])}. "
        f"python -m data_prep --check={dataset.root} finds all; delete those shards and run their data_prep command, "
        "which writes the same bytes, then run the same training command: it resumes"
    )


class Preview(NamedTuple):
    """One photo of a batch with its geometry and its crops, for people to look at."""

    image: np.ndarray  # uint8 [H, W, 3]
    geometry: Geometry
    views: Batch  # without the batch's axis: scenes [2, S, S, 3], instances [K, I, I, 3]


def photo_ids(dataset: Dataset, index: Index, step: int) -> list[str]:
    """The ids of the photos in the global batch of `step`, in order."""
    _, _, shards, offsets = index.rows(step)
    found = map(read_record, (str(dataset.shards[shard].path) for shard in shards), offsets)
    return [parse(serialized)["id"].numpy().decode() for serialized in found]


def preview(dataset: Dataset, index: Index, spec: ViewSpec, step: int, count: int) -> list[Preview]:
    """The first `count` photos of the batch of `step`, exactly as training sees them."""
    load = tf.function(_load(dataset, index.seed, spec))
    epoch, records, shards, offsets = index.rows(step)
    photos = []
    for row in range(min(count, len(records))):
        loaded = load(*(tf.constant(v, tf.int64) for v in (epoch, records[row], shards[row], offsets[row])))
        photos.append(Preview(*tf.nest.map_structure(lambda x: x.numpy(), loaded)))
    return photos
