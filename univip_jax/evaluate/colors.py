"""The colours of ORL's linear protocol, on the accelerator: torchvision's jitter and AlexNet's lighting."""

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from univip_jax.colors import torchvision_jitter

# Principal components of the RGB pixels in [0, 1] of ImageNet's training photos (Krizhevsky et al. 2012).
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
EIGENVECTORS = np.array(  # one per column
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)


def light(key: Key[Array, ""], image: Float[Array, "H W 3"], std: float) -> Float[Array, "H W 3"]:
    """One shift for all pixels: along each component by N(0, std^2) times its eigenvalue; not clipped."""
    return image + EIGENVECTORS @ (std * jax.random.normal(key, (3,)) * EIGENVALUES)


def augment_colors(
    key: Key[Array, ""], images: Float[Array, "N H W 3"], color_jitter: float, lighting: float
) -> Float[Array, "N H W 3"]:
    """Brightness, contrast and saturation, then `light`, of images in [0, 1], each by its own draw."""

    def one(key: Key[Array, ""], image: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
        keys = jax.random.split(key)
        jittered = torchvision_jitter(keys[0], image, color_jitter, color_jitter, color_jitter, hue=0.0)
        return light(keys[1], jittered, lighting)

    return jax.vmap(one)(jax.random.split(key, len(images)), images)
