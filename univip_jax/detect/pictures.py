"""A picture of each photo with what was found in it."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from univip_jax.common.files import write_whole
from univip_jax.data.detection.sets import Category
from univip_jax.data.photos.listing import PhotoFile
from univip_jax.detect.reading import Loaded
from univip_jax.detection.coco_ap import Found, paste
from univip_jax.detection.drawing import Drawn, color_of, draw_objects

_LEAST_SIDE = 640  # px of the longer side: labels are legible


class Pictures:
    """A folder of JPEG files, `NUMBER_NAME.jpg`, numbered in the order of the photos."""

    def __init__(self, folder: Path, threshold: float, photos: Sequence[PhotoFile], categories: Sequence[Category]):
        """`threshold`: the least score of what is drawn."""
        self._folder, self._threshold = folder, threshold
        self._numbers = {photo.image_id: number for number, photo in enumerate(photos)}
        self._classes = {category.id: (number, category.name) for number, category in enumerate(categories)}

    def draw(self, found: Found, photo: Loaded) -> None:
        """Draws a photo from its canvas, in the size there, or larger; the frame of `found` is that size."""
        drawn = []
        for index in np.flatnonzero(found.scores >= self._threshold)[::-1]:  # the best last
            number, name = self._classes[found.categories[index]]
            box = found.boxes_yxyx_px[index]
            mask = None if found.masks is None else paste(found.masks[index], box, found.height, found.width)
            drawn.append(Drawn(box, color_of(number), f"{name} {found.scores[index]:.2f}", mask))
        picture, buffer = Image.fromarray(photo.image[: found.height, : found.width]), io.BytesIO()
        side = max(_LEAST_SIDE, *picture.size)
        draw_objects(picture, (found.height, found.width), drawn, side).save(buffer, "JPEG", quality=90)
        self._folder.mkdir(parents=True, exist_ok=True)
        # Archives name photos by any text: it becomes one plain name.
        plain = re.sub("[^a-zA-Z0-9.-]", "_", photo.image_id)[-100:]
        write_whole(self._folder / f"{self._numbers[photo.image_id]:06d}_{plain}.jpg", buffer.getvalue())
