"""Crops of labelled photos on the host: a draw of torchvision's RandomResizedCrop, and the pixels of a box."""

import math

from univip_jax.data.host import tf

_TRIES = 10  # of a crop, before it is the central one


def torchvision_crops(
    seed: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    count: int,
    share: tuple[float, float],
    aspect: tuple[float, float],
) -> tf.Tensor:
    """Boxes [count, 4] of torchvision's RandomResizedCrop: the first of ten draws of area and aspect that fits.

    Area is uniform and aspect log-uniform in each draw; large crops seldom fit, so they are rare. Where no draw fits,
    the crop is the largest central one whose aspect lies in the range. Sides and places are whole px.

    Args:
      height, width: of the photo, px, float32 scalars.
      share: of the photo's area, least and largest.
      aspect: width / height, least and largest.
    """
    seeds, photo = tf.random.split(seed, 3), tf.stack([height, width])
    area = height * width * tf.random.stateless_uniform([count, _TRIES], seeds[0], *share)
    ratio = tf.exp(tf.random.stateless_uniform([count, _TRIES], seeds[1], *map(math.log, aspect)))
    tries = tf.round(tf.sqrt(tf.stack([area / ratio, area * ratio], -1)))
    central = tf.stack([width / aspect[0], height * aspect[1]])
    central = tf.clip_by_value(tf.round(central), 1, photo)
    tries = tf.concat([tries, tf.tile(central[None, None], [count, 1, 1])], 1)
    fits = tf.reduce_all((tries >= 1) & (tries <= photo), -1)  # the last always does
    first = tf.argmax(tf.cast(fits, tf.int32), 1)
    sides = tf.gather(tries, first, batch_dims=1)
    corner = tf.floor(tf.random.stateless_uniform([count, 2], seeds[2]) * (photo - sides + 1))
    corner = tf.where(first[:, None] == _TRIES, tf.floor((photo - sides) / 2), corner)
    return tf.concat([corner, corner + sides], -1) / tf.tile(photo, [2])


def crop(image: tf.Tensor, boxes: tf.Tensor, size: int, interpolation: str = "bilinear") -> tf.Tensor:
    """Crops uint8 [n, size, size, 3] of image uint8 [H, W, 3], one for each of boxes [n, 4], anti-aliased.

    As Pillow resizes, whose cubic is Keys' of a = -0.5 too; but near the box's border pixels beyond it count.
    """
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    low = boxes[:, :2] * shape
    scale = size / tf.maximum(boxes[:, 2:] * shape - low, 1e-3)
    crops = [tf.zeros([0, size, size, 3], tf.uint8)]
    for index in range(boxes.shape[0]):
        pixels = tf.raw_ops.ScaleAndTranslate(
            images=image[None],
            size=[size, size],
            scale=scale[index],
            translation=-low[index] * scale[index],
            kernel_type={"bilinear": "triangle", "bicubic": "keyscubic"}[interpolation],
            antialias=True,
        )
        crops.append(_to_uint8(pixels))
    return tf.concat(crops, 0)


def _to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """Rounds to the nearest, halves to even, and clips to 0..255: in one pass over memory instead of three."""
    quantized = tf.raw_ops.QuantizeV2(
        input=pixels, min_range=0.0, max_range=255.0, T=tf.quint8, mode="SCALED", round_mode="HALF_TO_EVEN"
    )
    return tf.bitcast(quantized.output, tf.uint8)
