"""A picture of a run's first batch: photos, boxes and views."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.common.files import appearing
from univip_jax.data import boxes
from univip_jax.data.pipeline import Preview
from univip_jax.types import Batch

_SIDE, _GAP = 160, 6  # px of a cell, and between cells
_BACKGROUND, _INK = (250, 250, 250), (40, 40, 40)
_SCENES, _REGION, _INSTANCES = ("#e6194b", "#4363d8"), "#ffffff", "#ffd60a"


def _draw_geometry(photo: Preview) -> Image.Image:
    """The photo with both scenes, the region of the instances and the K boxes."""
    geometry = photo.geometry
    outlines = [(geometry.region, _REGION, 4)]
    outlines += [(box, color, 2) for box, color in zip(geometry.scenes, _SCENES, strict=True)]
    outlines += [(box, _INSTANCES, 1) for box in geometry.instances]
    return boxes.draw(Image.fromarray(photo.image), _SIDE, outlines)


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
    size = columns * (_SIDE + _GAP) + _GAP, legend + 2 * len(photos) * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", size, _BACKGROUND)
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
                sheet.paste(boxes.draw(Image.fromarray(np.asarray(view)), _SIDE, ()), place)
    with appearing(path) as tmp:
        sheet.save(tmp, "PNG")
