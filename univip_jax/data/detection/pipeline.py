"""Records to batches on canvases: a pure function of (data set, seed, step), whatever the hosts and threads."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from jaxtyping import Int

from univip_jax.data.annotated import InJson, Polygons, read_annotations, read_polygons
from univip_jax.data.detection.canvas import InputSpec, canvases
from univip_jax.data.detection.index import CanvasIndex
from univip_jax.data.detection.masks import object_masks
from univip_jax.data.fit import onto, resize
from univip_jax.data.host import tf
from univip_jax.data.pipeline import stream
from univip_jax.data.records import Dataset, decode_image, parse
from univip_jax.types import DetectionBatch

_LEAST_SIDE_PX = 1e-5  # of a box in the photo: below, it is no box (Detectron2)


def record_seed(seed: int, epoch: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
    """The seed of one photo in one epoch, whatever the hosts, threads and batch size."""
    key = tf.constant([seed, 0], tf.int64)
    for value in (epoch, record):
        key = tf.random.fold_in(key, value)
    return key


def fitted(height: tf.Tensor, width: tf.Tensor, short_side: tf.Tensor, max_side: int) -> tf.Tensor:
    """`canvas.resized` in graph: int32 [2]."""
    sides = tf.cast(tf.stack([height, width]), tf.float64)
    scale = tf.minimum(tf.cast(short_side, tf.float64) / tf.reduce_min(sides), max_side / tf.reduce_max(sides))
    return tf.maximum(1, tf.cast(tf.floor(sides * scale + 0.5), tf.int32))


def _objects(
    record: dict[str, tf.Tensor], serialized: tf.Tensor, categories: tf.Tensor, spec: InputSpec, masks: bool
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Boxes in [0, 1], classes and masks of the objects that are trained on, the largest first, not padded."""
    boxes = record["objects"]
    sides = (boxes[:, 2:] - boxes[:, :2]) * tf.cast(tf.stack([record["height"], record["width"]]), tf.float32)
    classes = tf.argmax(record["labels"][:, None] == categories, axis=-1, output_type=tf.int32)
    known = tf.reduce_any(record["labels"][:, None] == categories, axis=-1)
    good = ~record["is_crowd"] & tf.reduce_all(sides > _LEAST_SIDE_PX, axis=-1) & known
    area = tf.where(good, sides[:, 0] * sides[:, 1], -1.0)
    order = tf.argsort(area, direction="DESCENDING", stable=True)
    order = order[: tf.minimum(tf.reduce_sum(tf.cast(good, tf.int32)), spec.max_objects)]
    cells = spec.mask_cells
    if masks:
        bits = tf.numpy_function(
            partial(_masks, cells), [boxes, order, *read_polygons(serialized), *read_annotations(serialized)], tf.uint8
        )
        bits = tf.ensure_shape(bits, [None, cells, cells // 8])
    else:
        bits = tf.zeros([tf.shape(order)[0], 0, 0], tf.uint8)
    return tf.gather(boxes, order), tf.gather(classes, order), bits


def _masks(cells: int, boxes: np.ndarray, chosen: np.ndarray, *stored: np.ndarray) -> np.ndarray:
    """`object_masks` of what `read_polygons` and `read_annotations` give."""
    in_json = InJson(*stored[3:])
    runs = in_json.rle if len(in_json.rle) else [b""] * len(boxes)
    frame = int(in_json.frame_height), int(in_json.frame_width)
    return object_masks(boxes, chosen, Polygons(*stored[:3]), runs, frame, cells)


def _padded(values: tf.Tensor, number: int) -> tf.Tensor:
    shape = [number, *values.shape[1:]]
    rest = [[0, number - tf.shape(values)[0]], *([[0, 0]] * (len(shape) - 1))]
    return tf.ensure_shape(tf.pad(values, rest), shape)


def load_photo(
    serialized: tf.Tensor,
    seed: tf.Tensor,
    canvas: tf.Tensor,
    categories: Sequence[int],
    spec: InputSpec,
    masks: bool,
    photo: tf.Tensor,
) -> DetectionBatch:
    """One record for training, without the batch's axis: a drawn size, mirrored or not, its objects."""
    record = parse(serialized)
    seeds = tf.random.split(seed, 2)
    choice = tf.random.stateless_uniform([], seeds[0], 0, len(spec.short_sides), tf.int32)
    size = fitted(record["height"], record["width"], tf.constant(spec.short_sides)[choice], spec.max_side)
    image = onto(resize(decode_image(record["encoded"]), size), canvas)
    boxes, classes, bits = _objects(record, serialized, tf.constant(categories, tf.int64), spec, masks)
    extent = tf.cast(tf.concat([size, size], 0), tf.float32)
    boxes = boxes * extent
    if spec.flip and tf.random.stateless_uniform([], seeds[1]) < 0.5:
        image = tf.concat([image[:, : size[1]][:, ::-1], image[:, size[1] :]], axis=1)
        y0, x0, y1, x1 = tf.unstack(boxes, axis=-1)
        width = extent[1]
        boxes = tf.stack([y0, width - x1, y1, width - x0], axis=-1)
        bits = _mirrored(bits, spec.mask_cells) if masks else bits
    exists = tf.range(spec.max_objects) < tf.shape(classes)[0]
    parts = (_padded(values, spec.max_objects) for values in (boxes, classes, bits))
    image = tf.ensure_shape(image, [None, None, 3])
    return DetectionBatch(image, tf.cast(size, tf.float32), *parts, exists, photo)


def _mirrored(bits: tf.Tensor, cells: int) -> tf.Tensor:
    flipped = tf.numpy_function(
        lambda values: np.packbits(np.unpackbits(values, axis=-1)[..., ::-1], axis=-1), [bits], tf.uint8
    )
    return tf.ensure_shape(flipped, [None, cells, cells // 8])


def make_batches(
    dataset: Dataset,
    index: CanvasIndex,
    spec: InputSpec,
    categories: Sequence[int],
    *,
    masks: bool,
    rows: Int[np.ndarray, " b"] | None = None,
    start: int = 0,
    stop: int | None = None,
    num_threads: int = 0,
) -> Iterator[DetectionBatch]:
    """This host's rows of the batches of steps `start`, `start + 1`, ... before `stop`; a batch is of one canvas.

    Args:
      categories: ids of the annotations, in the order of the classes.
      masks: False leaves them out.
      rows: the rows of the global batch that this host feeds; all of them by default.

    Raises as `data.pipeline.make_batches` does.
    """
    available = np.array(canvases(spec))

    def rows_of(step: int) -> tuple[np.ndarray, ...]:
        canvas, photos, repeats = index.rows(step)
        return photos, repeats, np.tile(available[canvas], [len(photos), 1])

    def load(serialized: tf.Tensor, photo: tf.Tensor, repeat: tf.Tensor, canvas: tf.Tensor) -> DetectionBatch:
        seed = record_seed(index.seed, repeat, photo)
        return load_photo(serialized, seed, tf.cast(canvas, tf.int32), categories, spec, masks, photo)

    return stream(dataset, rows_of, load, rows=rows, start=start, stop=stop, num_threads=num_threads)
