"""The colours of ORL's linear protocol, on the accelerator: torchvision's jitter and AlexNet's lighting.

BYOL's jitter, in `augment`, is another one: it adds brightness, which is a factor here, and computes greys differently.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, Pillow's grey
# Principal components of the RGB pixels in [0, 1] of ImageNet's training photos (Krizhevsky et al. 2012).
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
EIGENVECTORS = np.array(  # one per column
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)


def adjust(
    image: Float[Array, "H W 3"], kind: int | Int[Array, ""], factor: float | Float[Array, ""]
) -> Float[Array, "H W 3"]:
    """The image in [0, 1], moved from black (kind 0, brightness), its mean grey (1, contrast) or its grey (2,
    saturation) by a factor; 1 changes nothing."""

    def grey(x: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
        return jnp.broadcast_to((x @ _LUMA)[..., None], x.shape)

    anchors = [jnp.zeros_like, lambda x: jnp.full_like(x, (x @ _LUMA).mean()), grey]
    anchor = jax.lax.switch(kind, anchors, image)
    return jnp.clip(anchor + factor * (image - anchor), 0.0, 1.0)


def jitter(key: Key[Array, ""], image: Float[Array, "H W 3"], strength: float) -> Float[Array, "H W 3"]:
    """Brightness, contrast and saturation in a random order, each by a factor U(1 - strength, 1 + strength)."""
    draw, order = jax.random.split(key)
    factors = jax.random.uniform(draw, (3,), minval=1 - strength, maxval=1 + strength)
    for kind in jax.random.permutation(order, 3):
        image = adjust(image, kind, factors[kind])
    return image


def light(key: Key[Array, ""], image: Float[Array, "H W 3"], std: float) -> Float[Array, "H W 3"]:
    """One shift for all pixels: along each component by N(0, std^2) times its eigenvalue; not clipped."""
    return image + EIGENVECTORS @ (std * jax.random.normal(key, (3,)) * EIGENVALUES)


def augment_colors(
    key: Key[Array, ""], images: Float[Array, "N H W 3"], color_jitter: float, lighting: float
) -> Float[Array, "N H W 3"]:
    """`jitter`, then `light`, of images in [0, 1], each by its own draw."""

    def one(key: Key[Array, ""], image: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
        keys = jax.random.split(key)
        return light(keys[1], jitter(keys[0], image, color_jitter), lighting)

    return jax.vmap(one)(jax.random.split(key, len(images)), images)
