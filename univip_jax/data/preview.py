"""A picture of a run's first batch: photos, boxes and views."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.data.pipeline import Preview
from univip_jax.types import Batch

_SIDE, _GAP = 160, 6  # px of a cell, and between cells
_BACKGROUND, _INK = (250, 250, 250), (40, 40, 40)
_SCENES, _REGION, _INSTANCES = ("#e6194b", "#4363d8"), "#ffffff", "#ffd60a"


def _fit(image: UInt8[np.ndarray, "H W 3"]) -> Image.Image:
    """The image, resized to fill a cell."""
    picture = Image.fromarray(image)
    scale = _SIDE / max(picture.size)
    return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BICUBIC)


def _draw_geometry(photo: Preview) -> Image.Image:
    """The photo with both scenes, the region of the instances and the K boxes."""
    picture = _fit(photo.image)
    draw = ImageDraw.Draw(picture)
    size = np.array([picture.height, picture.width] * 2) - 1

    def outline(box: np.ndarray, color: str, width: int) -> None:
        y0, x0, y1, x1 = np.round(box * size)
        draw.rectangle([x0, y0, x1, y1], outline=color, width=width)

    outline(photo.geometry.region, _REGION, 4)
    for box, color in zip(photo.geometry.scenes, _SCENES, strict=True):
        outline(box, color, 2)
    for box in photo.geometry.instances:
        outline(box, _INSTANCES, 1)
    return picture


def to_pixels(images: Float[np.ndarray, "*n H W 3"]) -> UInt8[np.ndarray, "*n H W 3"]:
    """Undoes `augment.normalize_pixels`."""
    return np.clip(np.round((np.asarray(images) * IMAGENET_STD + IMAGENET_MEAN) * 255), 0, 255).astype(np.uint8)


def draw_batch(photos: list[Preview], augmented: Batch, path: Path) -> None:
    """Draws each photo with its views as cropped (above) and as augmented (below) to a PNG file.

    Args:
      augmented: normalised float32 views of the same photos, [n, 2, S, S, 3] and [n, K, I, I, 3].
    """
    columns = 1 + max(len(p.views.scenes) + len(p.views.instances) for p in photos)
    legend = 22
    sheet = Image.new(
        "RGB",
        (columns * (_SIDE + _GAP) + _GAP, legend + 2 * len(photos) * (_SIDE + _GAP) + _GAP),
        _BACKGROUND,
    )
    ImageDraw.Draw(sheet).text(
        (_GAP, 5),
        "photo: scene 1 red, scene 2 blue, the instances' region white, instances yellow | "
        "then scene 1, scene 2, instances: above as cropped, below as augmented",
        fill=_INK,
    )
    for row, photo in enumerate(photos):
        top = legend + 2 * row * (_SIDE + _GAP) + _GAP
        sheet.paste(_draw_geometry(photo), (_GAP, top))
        pixels = [to_pixels(views[row]) for views in augmented]
        for line, (scenes, instances) in enumerate((photo.views, pixels)):
            for column, view in enumerate([*scenes, *instances], start=1):
                place = (_GAP + column * (_SIDE + _GAP), top + line * (_SIDE + _GAP))
                sheet.paste(_fit(np.asarray(view)), place)
    sheet.save(path)
