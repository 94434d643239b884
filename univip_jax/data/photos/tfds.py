"""Photos of TFDS data sets: the bytes as TFDS stores them, undecoded, and their annotated boxes."""

from collections.abc import Iterator
from functools import lru_cache, reduce
from operator import getitem
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from univip_jax.common.errors import UserError
from univip_jax.data.host import tf
from univip_jax.data.photos.listing import Objects, Opened, PhotoFile

# The places of y0, x0, y1, x1 in TFDS's box formats that need no image size.
_ORDER = {"REL_YXYX": [0, 1, 2, 3], "REL_XYXY": [1, 0, 3, 2]}


class _Layout(NamedTuple):
    """Where a data set keeps the image and its annotations."""

    image: str
    order: list[int]  # of the boxes' numbers
    fields: dict[str, tuple[str, ...]]  # paths of `boxes`, `label` and `is_crowd` in an example, where it has them


def list_split(dataset: str, split: str) -> list[PhotoFile]:
    """The photos of a split, as `train`, `train[:10%]` or `train+validation`, with ids NAME/VERSION/SPLIT/NUMBER.

    Prepares the data set if needed.

    Raises UserError: no such data set or split, it cannot be downloaded, or it holds no images.
    """
    tfds = _tfds()
    try:
        builder = tfds.builder(dataset)
        builder.download_and_prepare()
        splits = builder.info.splits
        name = f"{builder.info.full_name.rpartition('/')[0]}:{builder.version}"
        photos = {
            PhotoFile(
                f"{name.replace(':', '/')}/{part.splitname}/{number:08d}", f"{name}@{part.splitname}", 0, "tfds", number
            )
            for part in tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
            for number in range(splits[part.splitname].num_examples)[part.from_ : part.to]
        }
    except Exception as error:  # each data set of TFDS brings its own code to download and write it
        raise UserError(
            f"--dataset={dataset} --split={split} cannot be opened ({_reason(error)}): see TFDS's catalogue for names "
            "and splits; TFDS_DATA_DIR says where its data lie"
        ) from error
    _layout(name)
    if not photos:
        raise UserError(f"--dataset={dataset} --split={split} holds no photos: choose another split")
    return sorted(photos)


def has_boxes(dataset: str) -> bool:
    """Whether the data set comes with annotated boxes."""
    return "boxes" in _layout(dataset).fields


def _tfds() -> Any:
    import tensorflow_datasets  # late: it takes seconds

    logging.set_verbosity(logging.ERROR)  # it logs every step, in every worker; failures are raised
    return tensorflow_datasets


@lru_cache(maxsize=4)
def _builder(dataset: str) -> Any:
    return _tfds().builder(dataset)


@lru_cache(maxsize=4)
def _layout(dataset: str) -> _Layout:
    tfds = _tfds()
    features = _builder(dataset).info.features
    images = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
    if not images:
        raise UserError(f"--dataset={dataset} holds no images (its features: {', '.join(features)}): choose another")
    flat: dict[tuple[str, ...], Any] = {}
    for name, feature in features.items():
        inner = getattr(feature, "feature", None)  # of a sequence
        named = inner.items() if isinstance(inner, tfds.features.FeaturesDict) else ()
        flat |= {(name,): feature} | {(name, key): value for key, value in named}
    paths = [path for path, feature in flat.items() if isinstance(feature, tfds.features.BBoxFeature)]
    image = "image" if "image" in images else images[0]
    if not paths:
        return _Layout(image, [], {})
    boxes = paths[0]
    kind = getattr(flat[boxes].bbox_format, "name", "REL_YXYX")
    if kind not in _ORDER:
        raise UserError(f"--dataset={dataset} has boxes as {kind}: only {' and '.join(_ORDER)} are read")
    beside = {name: (*boxes[:-1], name) for name in ("label", "is_crowd") if (*boxes[:-1], name) in flat}
    return _Layout(image, _ORDER[kind], {"boxes": boxes, **beside})


_reading: dict[tuple[str, str], tuple[int, Iterator[dict]]] = {}  # the next position, and an iterator from there


def read_example(dataset: str, split: str, position: int) -> Opened:
    """The photo at a position of a plain split; consecutive calls read on from the last one.

    Boxes are in the frame of the pixels as encoded, labels are TFDS's class numbers.

    Raises UserError: it cannot be read.
    """
    next_position, examples = _reading.pop((dataset, split), (-1, iter(())))
    try:
        if next_position != position:
            examples = _examples_from(dataset, split, position)
        example = next(examples)
    except (ValueError, AssertionError, OSError, StopIteration, tf.errors.OpError) as error:
        where = f"TFDS {dataset}, {split}[{position}]"
        raise UserError(f"{where} cannot be read ({_reason(error)}): delete and download it again") from error
    _reading[dataset, split] = position + 1, examples
    return _opened(_layout(dataset), example)


def _reason(error: Exception) -> str:
    """The first line of TFDS's messages; the others list all names that it knows."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _examples_from(dataset: str, split: str, position: int) -> Iterator[dict]:
    tfds = _tfds()
    layout = _layout(dataset)
    wanted: dict[str, Any] = {layout.image: True}
    for path in layout.fields.values():
        wanted[path[0]] = True if len(path) == 1 else {*wanted.get(path[0], ()), path[1]}
    decoders = tfds.decode.PartialDecoding(wanted, decoders={layout.image: tfds.decode.SkipDecoding()})
    # File after file, in order, and only what is asked for.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False, skip_prefetch=True)
    examples = _builder(dataset).as_dataset(split=f"{split}[{position}:]", decoders=decoders, read_config=config)
    return examples.as_numpy_iterator()


def _opened(layout: _Layout, example: dict) -> Opened:
    found = {name: reduce(getitem, path, example) for name, path in layout.fields.items()}
    boxes = np.asarray(found.get("boxes", ()), np.float32).reshape(-1, 4)[:, layout.order or slice(None)]
    labels, is_crowd = (found.get(name, np.zeros([len(boxes)])) for name in ("label", "is_crowd"))
    objects = Objects(boxes, np.asarray(labels, np.int64).ravel(), np.asarray(is_crowd, bool).ravel())
    return Opened(bytes(example[layout.image]), objects)
