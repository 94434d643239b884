"""Colour jitter of images in [0, 1], one draw per call: torchvision's, which is ORL's, and BYOL's.

torchvision's, on PIL images, blends with black, with the mean grey of the image and with each pixel's grey. BYOL's is
that of its own code, by dm-pix: brightness is added, contrast stretches about each channel's mean, saturation is
multiplied in HSV. Both turn the hue in HSV, and clip after each adjustment.
"""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, Pillow's grey

Image = Float[Array, "H W 3"]


def blend(image: Image, kind: int | Int[Array, ""], factor: float | Float[Array, ""]) -> Image:
    """The image, moved from black (kind 0, brightness), its mean grey (1, contrast) or its grey (2, saturation) by a
    factor; 1 changes nothing.

    The kind chooses the anchor, not a branch: under `vmap` a `switch` evaluates all its branches, which took four times
    as long for the whole augmentation (benchmarks/notes.md).
    """
    # Channel by channel: a sum over the last axis would not fuse.
    grey = sum(weight * image[..., channel, None] for channel, weight in enumerate(LUMA))
    anchor = jnp.where(kind == 2, grey, jnp.where(kind == 1, grey.mean(), 0.0))
    return jnp.clip(anchor + factor * (image - anchor), 0.0, 1.0)


def torchvision_jitter(
    key: Key[Array, ""], image: Image, brightness: float, contrast: float, saturation: float, hue: float
) -> Image:
    """In a random order: factors U(max(0, 1 - strength), 1 + strength), and a turn by U(-hue, hue) of the circle."""
    draw, order = jax.random.split(key)
    low = [max(0.0, 1 - strength) for strength in (brightness, contrast, saturation)] + [-hue] * bool(hue)
    high = [1 + strength for strength in (brightness, contrast, saturation)] + [hue] * bool(hue)
    factors = jax.random.uniform(draw, (len(low),), image.dtype, jnp.asarray(low), jnp.asarray(high))
    for kind in jax.random.permutation(order, len(low)):
        blended = blend(image, kind, factors[kind])
        image = jnp.where(kind == 3, dm_pix.adjust_hue(image, factors[kind]), blended) if hue else blended
    return image


def byol_jitter(
    key: Key[Array, ""], image: Image, brightness: float, contrast: float, saturation: float, hue: float
) -> Image:
    """In a random order: U(-brightness, brightness) is added, factors U(1 - strength, 1 + strength), hue as above."""
    keys = jax.random.split(key, 5)

    def draw(index: int, strength: float) -> Float[Array, ""]:
        return jax.random.uniform(keys[index], dtype=image.dtype, minval=-strength, maxval=strength)

    delta = (draw(0, brightness), 1 + draw(1, contrast), 1 + draw(2, saturation), draw(3, hue))
    adjust = [
        lambda x: dm_pix.adjust_brightness(x, delta[0]),
        lambda x: dm_pix.adjust_contrast(x, delta[1]),
        lambda x: dm_pix.adjust_saturation(x, delta[2]),
        lambda x: dm_pix.adjust_hue(x, delta[3]),
    ]
    for index in jax.random.permutation(keys[4], 4):
        image = jnp.clip(jax.lax.switch(index, adjust, image), 0.0, 1.0)
    return image


JITTERS = {"torchvision": torchvision_jitter, "byol": byol_jitter}  # by `augment.color`
