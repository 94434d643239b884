"""Similarity maps: the feature at a point of a photo against every place of that photo, and of another one."""

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from PIL import Image, ImageDraw

from univip_jax.report.neighbours import normalize
from univip_jax.report.sample import Photo

SIDE = 224  # px of a drawn map
_OPACITY = 0.6


def point_of(photo: Photo) -> tuple[float, float]:
    """y and x in the photo's central square, in [0, 1]: the centre of its largest box that has its centre in it."""
    y0, x0, y1, x1 = photo.square()
    boxes = photo.boxes[np.argsort(-np.prod(photo.boxes[:, 2:] - photo.boxes[:, :2], axis=1), kind="stable")]
    for top, left, bottom, right in boxes:
        y, x = ((top + bottom) / 2 - y0) / (y1 - y0), ((left + right) / 2 - x0) / (x1 - x0)
        if 0 <= y < 1 and 0 <= x < 1:
            return float(y), float(x)
    return 0.5, 0.5


def similarity(
    own: Float[np.ndarray, "h w c"], other: Float[np.ndarray, "h w c"], point: tuple[float, float]
) -> Float[np.ndarray, "2 h w"]:
    """Cosines of the feature at the point of `own` with all places of both maps."""
    height, width, _ = own.shape
    unit = normalize(np.stack([own, other]))
    return unit @ unit[0, int(point[0] * height), int(point[1] * width)]


def draw_heat(
    heat: Float[np.ndarray, "h w"], pixels: UInt8[np.ndarray, "S S 3"], low: float
) -> UInt8[np.ndarray, "S S 3"]:
    """The photo in grey under the heat: blue is `low` or less, red is 1."""
    share = np.clip((heat - low) / max(1 - low, 1e-6), 0, 1).astype(np.float32)
    smooth = np.asarray(Image.fromarray(share).resize(pixels.shape[1::-1], Image.Resampling.BILINEAR))
    colors = 255 * colormaps["turbo"](smooth)[..., :3]
    grey = pixels.mean(-1, keepdims=True)
    return np.round(_OPACITY * colors + (1 - _OPACITY) * grey).astype(np.uint8)


def draw_point(pixels: UInt8[np.ndarray, "S S 3"], point: tuple[float, float]) -> UInt8[np.ndarray, "S S 3"]:
    """The photo with a ring around the point."""
    image = Image.fromarray(pixels)
    y, x = (value * len(pixels) for value in point)
    for radius, color, width in ((11, "black", 5), (10, "#ff2020", 3)):
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=width)
    return np.asarray(image)
