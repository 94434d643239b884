"""Boxes, masks and labels drawn over a photo, for people to look at."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFilter, ImageFont

RED = (214, 16, 32)
GREY = (150, 150, 150)
_OPACITY = 100  # of a mask, of 255
_FONT_PX = 12
_SMALL = 0.01  # of the picture: labels keep off such objects


class Drawn(NamedTuple):
    """An object to draw."""

    box: Float[np.ndarray, "4"]  # yxyx, px of the frame
    color: tuple[int, ...]
    label: str
    mask: Bool[np.ndarray, "H W"] | None = None  # in the frame


def color_of(number: int) -> tuple[int, ...]:
    """The colour of a class: neighbours in the list have distant hues, and none is a warning's red."""
    hue = 0.05 + 0.9 * (number * 0.618034 % 1)
    return tuple(round(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.85 - 0.3 * (number % 2), 1))


def draw_objects(photo: Image.Image, frame: tuple[int, int], objects: Sequence[Drawn], side: int) -> Image.Image:
    """The photo with a long side of `side` px and the objects, the last on top.

    Args:
      frame: height and width that boxes and masks are in, px.
    """
    scale = side / max(photo.size)
    size = [max(1, round(length * scale)) for length in photo.size]
    picture = photo.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    for one in objects:
        if one.mask is not None:
            _paint_mask(picture, one)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT_PX)
    to_picture = np.tile(np.divide(size[::-1], frame), 2)
    corners = [np.round(one.box * to_picture).tolist() for one in objects]
    for one, (y0, x0, y1, x1) in zip(objects, corners, strict=True):
        draw.rectangle([x0 - 1, y0 - 1, max(x0, x1) + 1, max(y0, y1) + 1], outline="black")
        draw.rectangle([x0, y0, max(x0, x1), max(y0, y1)], outline=one.color, width=2)
    small = [(x0, y0, x1, y1) for y0, x0, y1, x1 in corners if (y1 - y0) * (x1 - x0) < _SMALL * size[0] * size[1]]
    for one, box in reversed(list(zip(objects, corners, strict=True))):  # what is on top chooses first
        _write_label(draw, one, box, picture.size, font, small)
    return picture


def _paint_mask(picture: Image.Image, one: Drawn) -> None:
    shape = Image.fromarray(one.mask.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.BILINEAR)
    shape = shape.point(lambda value: 255 * (value > 127))
    rim = np.asarray(shape) - np.asarray(shape.filter(ImageFilter.MinFilter(3)))
    picture.paste(one.color, mask=shape.point(lambda value: _OPACITY * (value > 127)))
    picture.paste(one.color, mask=Image.fromarray(rim))


def _write_label(
    draw: ImageDraw.ImageDraw, one: Drawn, box: Sequence[float], size: tuple[int, int], font: ImageFont.ImageFont,
    taken: list[tuple[float, ...]],
) -> None:  # fmt: skip
    """The label above or below its box, where it covers no other label and no small object, if there is such a place.

    Args:
      box: yxyx, px of the picture.
      taken: places that are covered already, xyxy; the label's is added.
    """
    width, height = round(draw.textlength(one.label, font)) + 6, _FONT_PX + 4
    x = min(max(0, box[1]), size[0] - width)
    tries = [y for step in range(4) for y in (box[0] - 2 - (step + 1) * height, box[2] + 3 + step * height, box[0])]
    inside = [y for y in tries if 0 <= y <= size[1] - height]
    beside = [(y0, y1) for x0, y0, x1, y1 in taken if x < x1 and x0 < x + width]
    free = [y for y in inside if not any(y < y1 and y0 < y + height for y0, y1 in beside)]
    y = next(iter(free + inside), 0)
    place = (x, y, x + width, y + height)
    taken.append(place)
    bright = np.dot(one.color, (0.299, 0.587, 0.114)) > 130
    draw.rectangle(place, fill=one.color)
    draw.text((x + 3, y + 1), one.label, fill="black" if bright else "white", font=font)
