"""Photometric augmentation on the accelerator (BYOL's, as in its appendix B), every sample by its own draw.

`augment.color` and `augment.blur_kernel` choose between ORL's colours and blur, which are PyTorch's, and those of
BYOL's own code. Pixels are clipped before the normalisation, never after it.
"""

import math
from dataclasses import dataclass

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from univip_jax.colors import JITTERS
from univip_jax.common.errors import UserError

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet's RGB pixels in [0, 1]
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)

INSTANCES = ("shared", "independent", "two_views")  # between the online and the target network
BLUR_KERNELS = ("sigma", "byol")


@dataclass(frozen=True)
class AugmentSpec:
    """`config.augment`: strengths and probabilities; a pair is (scene 1 and instances, scene 2)."""

    flip: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    jitter: float
    color: str
    greyscale: float
    blur: tuple[float, float]
    blur_sigma: tuple[float, float]
    blur_kernel: str
    solarize: tuple[float, float]
    instances: str

    def __post_init__(self):
        for field in ("blur", "blur_sigma", "solarize"):
            value = getattr(self, field)
            if len(value) != 2:
                raise UserError(f"augment.{field}={value} must be a pair of numbers")
        probabilities = (self.flip, self.jitter, self.greyscale, *self.blur, *self.solarize)
        if not all(0 <= p <= 1 for p in probabilities):
            raise UserError(f"augment: {self} holds a probability outside 0..1")
        for field, allowed in (("instances", INSTANCES), ("color", JITTERS), ("blur_kernel", BLUR_KERNELS)):
            if getattr(self, field) not in allowed:
                raise UserError(
                    f"augment.{field}={getattr(self, field)!r} is unknown; choose one of {', '.join(allowed)}"
                )

    def blur_radius(self, side: int) -> int:
        """Taps on each side of the blur's centre, for images of `side` px: 0 below 20 px by BYOL's rule."""
        return math.ceil(3 * self.blur_sigma[1]) if self.blur_kernel == "sigma" else side // 20


def normalize_pixels(images: UInt8[Array, "*any H W 3"]) -> Float[Array, "*any H W 3"]:
    """uint8 pixels to float32 with ImageNet's mean and std removed."""
    return (images.astype(jnp.float32) / 255.0 - IMAGENET_MEAN) / IMAGENET_STD


def gaussian_blur(image: Float[Array, "S S 3"], sigma: Float[Array, ""], radius: int) -> Float[Array, "S S 3"]:
    """Gaussian blur by 2 * radius + 1 taps a side; it repeats the edge pixels, as Pillow does.

    Two products with a banded matrix rather than dm-pix's convolution: with one sigma a sample, `vmap` makes that one
    convolution group a sample, which took 15 to 18 times as long (benchmarks/notes.md).
    """
    side = image.shape[0]
    offsets = jnp.arange(-radius, radius + 1)
    weights = jax.nn.softmax(-(offsets**2) / (2 * sigma**2))
    rows = jnp.arange(side)[:, None]
    columns = jnp.clip(rows + offsets, 0, side - 1)
    matrix = jnp.zeros((side, side)).at[rows, columns].add(jnp.broadcast_to(weights, columns.shape))
    return jnp.einsum("ij,jkc,lk->ilc", matrix, image, matrix, precision=jax.lax.Precision.HIGHEST)


def augment_image(
    key: Key[Array, ""], image: UInt8[Array, "S S 3"], spec: AugmentSpec, view: int
) -> Float[Array, "S S 3"]:
    """One uint8 crop to augmented, normalised float32.

    Args:
      view: 0 for the first scene and for instances, 1 for the second scene.
    """
    keys = jax.random.split(key, 7)
    happens = [
        jax.random.bernoulli(k, float(p))
        for k, p in zip(keys, (spec.jitter, spec.greyscale, spec.blur[view], spec.solarize[view]), strict=False)
    ]
    x = image.astype(float) / 255.0  # float32, or float64 where a test switches it on
    x = dm_pix.random_flip_left_right(keys[4], x, probability=spec.flip)
    if spec.jitter:
        jittered = JITTERS[spec.color](keys[5], x, spec.brightness, spec.contrast, spec.saturation, spec.hue)
        x = jnp.where(happens[0], jittered, x)
    x = jnp.where(happens[1], dm_pix.rgb_to_grayscale(x, keep_dims=True), x)
    if spec.blur[view]:
        sigma = jax.random.uniform(keys[6], (), x.dtype, *spec.blur_sigma)
        x = jnp.where(happens[2], gaussian_blur(x, sigma, spec.blur_radius(x.shape[0])), x)
    if spec.solarize[view]:
        x = jnp.where(happens[3], dm_pix.solarize(x, 128 / 255), x)
    return (jnp.clip(x, 0.0, 1.0) - IMAGENET_MEAN) / IMAGENET_STD


def augment_batch(
    key: Key[Array, ""], images: UInt8[Array, "N S S 3"], spec: AugmentSpec, view: int
) -> Float[Array, "N S S 3"]:
    """`augment_image` with a key for each of the N images."""
    keys = jax.random.split(key, len(images))
    return jax.vmap(lambda k, image: augment_image(k, image, spec, view))(keys, images)
