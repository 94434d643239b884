"""Views of a photo for a frozen encoder: its centre, or the whole photo squashed to a square."""

from collections.abc import Callable

from univip_jax.data.fit import resize
from univip_jax.data.host import tf
from univip_jax.data.labelled.crops import crop

View = Callable[[tf.Tensor, int], tf.Tensor]  # uint8 [H, W, 3] and a size to uint8 [size, size, 3]
_CENTRE = 224 / 256  # share of the shorter side in the centre crop of ImageNet's protocols


def centre_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """The centre square of 224/256 of the shorter side of uint8 [H, W, 3], resized to uint8 [size, size, 3]."""
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    half = _CENTRE * tf.reduce_min(shape) / shape / 2
    return crop(image, tf.concat([0.5 - half, 0.5 + half], 0)[None], size)[0]


def squash(image: tf.Tensor, size: int) -> tf.Tensor:
    """The whole photo, uint8 [H, W, 3], its shorter side resized to 256/224 of `size`, then to uint8 [size, size, 3].

    The protocol of SVMs on VOC07 (`svm_voc07`) resizes twice, each time anti-aliased and to whole pixel values.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    side, shorter = round(size / _CENTRE), tf.minimum(height, width)
    for sides in ([side * height // shorter, side * width // shorter], [size, size]):
        image = resize(image, sides)
    return image
