"""A picture of what a detector will learn from: a wrong json or a shifted mask is best seen before hours of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from univip_jax.common.files import appearing
from univip_jax.data.detection.sets import Category
from univip_jax.detection.coco_ap import paste
from univip_jax.detection.drawing import Drawn, color_of, draw_objects
from univip_jax.types import DetectionBatch

_PICTURED, _SIDE_PX, _GAP_PX = 4, 640, 8


def draw_first_batch(batch: DetectionBatch, categories: Sequence[Category], path: Path) -> None:
    """Writes the first photos of a batch side by side, exactly as the network sees them, with all their objects."""
    pictures = [_draw(batch, row, categories) for row in range(min(_PICTURED, len(batch.images)))]
    size = sum(one.width for one in pictures) + _GAP_PX * (len(pictures) - 1), max(one.height for one in pictures)
    sheet, left = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + _GAP_PX
    with appearing(path) as tmp:
        sheet.save(tmp, format="PNG")


def _draw(batch: DetectionBatch, row: int, categories: Sequence[Category]) -> Image.Image:
    height, width = batch.sizes[row].astype(int).tolist()
    objects = []
    for number in np.flatnonzero(batch.exists[row]):
        box, kind = batch.boxes[row, number].astype(np.float64), int(batch.classes[row, number])
        bits = np.unpackbits(batch.masks[row, number], axis=-1)
        mask = paste(bits.astype(np.float64), box, height, width) if bits.any() else None
        objects.append(Drawn(box, color_of(kind), categories[kind].name, mask))
    return draw_objects(Image.fromarray(batch.images[row, :height, :width]), (height, width), objects, _SIDE_PX)
