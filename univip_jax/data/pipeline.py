"""A prepared data set to batches of photos, in the order of the index: read by offset, decoded once."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Int

from univip_jax.common.errors import TransientError, UserError
from univip_jax.cut import compile_cut, shapes_of
from univip_jax.data.fit import decode_within, extents, onto
from univip_jax.data.host import keep_memory, tf
from univip_jax.data.index import Index, locate
from univip_jax.data.ranges import source
from univip_jax.data.records import Dataset, decode_image, parse, read_record
from univip_jax.sharding import make_mesh
from univip_jax.types import Batch, Geometry, Photos
from univip_jax.views import ViewSpec

Tree = TypeVar("Tree")
_MULTIPLE = 16  # px, of a canvas's sides: what a matrix unit takes


class Canvas(NamedTuple):
    """What every photo of a data set fits on, with its boxes."""

    height: int  # px
    width: int  # px
    num_proposals: int
    num_shrunk: int  # photos that are larger than `views.canvas`; 0 where the data set does not tell


def canvas_of(dataset: Dataset, spec: ViewSpec) -> Canvas:
    """The least canvas for a data set, at most `views.canvas` px a side.

    Raises UserError: `views.canvas` is 0, or the number of annotated objects a photo is not known.
    """
    if not spec.canvas:
        raise UserError(
            "views.canvas=0: the views of this run were cut on the host, as only older versions do; resume it by "
            "such a version, or train anew in another --workdir with --config.views.canvas=640"
        )
    columns = {"height": [], "width": [], "num_objects": []}
    for shard in dataset.shards:
        for name, values in columns.items():
            values.extend(shard.photos.get(name, ()))
    sides, num_shrunk = (spec.canvas, spec.canvas), 0
    if len(columns["height"]) == dataset.num_records:
        sizes = np.array([columns["height"], columns["width"]]).T
        num_shrunk = int((sizes.max(1) > spec.canvas).sum())
        sides = np.minimum(spec.canvas, -(-extents(sizes, spec.canvas).max(0) // _MULTIPLE) * _MULTIPLE)
    if spec.proposals == "annotated":
        if len(columns["num_objects"]) != dataset.num_records:
            raise UserError(
                f"views.proposals=annotated, but {dataset.root}, which an older version prepared, does not say how "
                "many objects its photos have: prepare it again in another --out"
            )
        number = max(columns["num_objects"])
    else:
        manifest = dataset.manifest  # a set of an early version has no statistics
        number = manifest.get("proposals", {}).get("max", manifest["settings"]["max_boxes"])
    return Canvas(*map(int, sides), max(1, number), num_shrunk)


def load_photo(serialized: tf.Tensor, record: tf.Tensor, epoch: tf.Tensor, canvas: Canvas, spec: ViewSpec) -> Photos:
    """A record as the accelerator gets it, without the batch's axis."""
    parsed = parse(serialized)
    size = tf.stack([parsed["height"], parsed["width"]])
    image = decode_within(parsed["encoded"], size, spec.canvas)
    pixels = tf.reshape(onto(image, tf.constant(canvas[:2])), [canvas.height, 3 * canvas.width])
    boxes = parsed["proposals"]
    if spec.proposals == "annotated":
        boxes = tf.boolean_mask(parsed["objects"], ~parsed["is_crowd"])
    boxes = tf.pad(boxes, [[0, canvas.num_proposals - tf.shape(boxes)[0]], [0, 0]])
    boxes = tf.ensure_shape(boxes, [canvas.num_proposals, 4])
    sides = (tf.cast(values, tf.int32) for values in (tf.shape(image)[:2], size, tf.stack([epoch, record])))
    extent, size, draw = sides
    return Photos(pixels, extent, size, boxes, draw)


def make_batches(
    dataset: Dataset,
    index: Index,
    spec: ViewSpec,
    *,
    rows: Int[np.ndarray, " b"] | None = None,
    start: int = 0,
    stop: int | None = None,
    num_threads: int = 0,
) -> Iterator[Photos]:
    """Batches of steps `start`, `start + 1`, ... before `stop`: a pure function of the step.

    Args:
      rows: the rows of the global batch that this host feeds; all of them by default.
      num_threads: threads that decode; 0: one per core.

    Raises:
      UserError: names the damaged records of the batch. None is skipped: that would change the run.
      TransientError: a record could not be read at first, but can be read again.
    """
    canvas = canvas_of(dataset, spec)

    def columns(step: int) -> tuple[np.ndarray, np.ndarray]:
        rows_of_step = index.rows(step)
        return rows_of_step.records, np.full(index.batch_size, rows_of_step.epoch)

    def load(serialized: tf.Tensor, record: tf.Tensor, epoch: tf.Tensor) -> Photos:
        return load_photo(serialized, record, epoch, canvas, spec)

    return stream(dataset, columns, load, rows=rows, start=start, stop=stop, num_threads=num_threads)


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
    keep_memory()
    first = columns(start)
    rows = np.arange(len(first[0])) if rows is None else rows

    def steps() -> Iterator[tuple[np.ndarray, ...]]:
        for step in itertools.count(start):
            if step == stop:
                return
            yield tuple(column[rows] for column in columns(step))

    photos = source(dataset, steps, [column.shape[1:] for column in first])
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = num_threads
    batches = (
        photos.rows.map(
            lambda place, *row: load(photos.read(place), *row), num_parallel_calls=num_threads or tf.data.AUTOTUNE
        )
        .batch(len(rows), drop_remainder=True)
        .prefetch(2)
        .with_options(options)
    )
    iterator = batches.as_numpy_iterator()
    for step in itertools.count(start):
        try:
            yield next(iterator)
        except (StopIteration, tf.errors.OpError) as end:
            error = photos.cause(end)
            if isinstance(error, StopIteration):
                return
            if isinstance(error, tf.errors.OpError):
                raise _name_damage(dataset, columns(step)[0][rows], step, error) from error
            raise error from None


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
    rows = np.arange(min(count, index.batch_size))
    photos = next(make_batches(dataset, index, spec, rows=rows, start=step, stop=step + 1, num_threads=1))
    return show(photos, spec, index.seed)


def show(photos: Photos, spec: ViewSpec, seed: int) -> list[Preview]:
    """Cuts the views of a few photos."""
    device = make_mesh(jax.local_devices()[:1])
    views, geometry = jax.device_get(compile_cut(spec, seed, shapes_of(photos), device)(photos))
    canvas = photos.pixels.reshape(*photos.pixels.shape[:2], -1, 3)
    return [
        Preview(
            canvas[row, : photos.extent[row, 0], : photos.extent[row, 1]],
            *jax.tree.map(lambda x, row=row: x[row], (geometry, views)),
        )
        for row in range(len(canvas))
    ]
