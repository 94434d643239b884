"""Labelled splits of TFDS: encoded photos with one class each, or, as `voc/2007`, with the objects in them."""

from typing import NamedTuple

from univip_jax.common.errors import UserError
from univip_jax.data.host import tf
from univip_jax.data.labelled.voc import ABSENT, DIFFICULT, PRESENT


class TfdsSplit(NamedTuple):
    """`examples` yields (encoded photo, label), the label int64, or int8 [C] as `voc.VocSplit` has them."""

    examples: tf.data.Dataset
    num_images: int
    classes: tuple[str, ...]
    version: str  # name, configuration and version, as `voc/2007/5.0.0`


def open_tfds(name: str, split: str) -> TfdsSplit:
    """Opens a split of a TFDS data set, as `train` or `train+validation`; prepares the data set first if need be.

    Raises UserError where it cannot be opened, or its photos have neither a label nor objects.
    """
    import tensorflow_datasets as tfds  # late: it takes a second, and folders do not need it

    try:
        builder = tfds.builder(name)
        builder.download_and_prepare()
        features = builder.info.features
        in_objects = getattr(features["objects"], "feature", {}) if "objects" in features else {}
        if "label" in features:
            wanted, label = {"image": True, "label": True}, features["label"]
        elif "label" in in_objects and "is_difficult" in in_objects:
            wanted, label = {"image": True, "objects": {"label", "is_difficult"}}, in_objects["label"]
        else:
            raise UserError(
                f"TFDS data set {name!r} has no label, nor objects with is_difficult: {', '.join(sorted(features))}"
            )
        decoders = tfds.decode.PartialDecoding(wanted, decoders={"image": tfds.decode.SkipDecoding()})
        examples = builder.as_dataset(split=split, decoders=decoders)
        classes, num_images = tuple(label.names), builder.info.splits[split].num_examples
    except (tfds.core.DatasetNotFoundError, ValueError, KeyError, AssertionError, OSError, AttributeError) as error:
        raise UserError(f"TFDS data set '{name}:{split}' cannot be opened: {str(error).splitlines()[0]}") from error

    def pick(example: dict) -> tuple[tf.Tensor, tf.Tensor]:
        if "label" in example:
            return example["image"], example["label"]
        return example["image"], classes_in_photo(**example["objects"], num_classes=len(classes))

    return TfdsSplit(examples.map(pick), num_images, classes, builder.info.full_name)


def classes_in_photo(label: tf.Tensor, is_difficult: tf.Tensor, num_classes: int) -> tf.Tensor:
    """int8 [num_classes] as `voc.VocSplit` has them, from the classes int64 [M] of M objects and bool [M]."""
    of_class = tf.one_hot(label, num_classes, True, False)
    is_clear = tf.reduce_any(of_class & ~is_difficult[:, None], 0)
    labels = tf.where(is_clear, PRESENT, tf.where(tf.reduce_any(of_class, 0), DIFFICULT, ABSENT))
    return tf.cast(labels, tf.int8)
