"""Which canvas a photo lies on, and in which size (Detectron2's resizing, under static shapes)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from univip_jax.common.errors import UserError


@dataclass(frozen=True)
class InputSpec:
    """`config.input` of a detector; sides in px.

    Attributes:
      short_sides: of the resized photo; each time one is drawn.
      test_short_side: at test.
      max_side: the longer side is at most this, however short the shorter one becomes.
      canvases: (shorter, longer) sides, each used lying and standing; a photo lies on the smallest that holds it.
      max_objects: of a photo; of more, the largest are kept, and the others are counted.
      mask_cells: side of a mask over its box.
      flip: photos are mirrored half of the time.
      keep_empty: photos without objects are trained on as background.
    """

    short_sides: tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    test_short_side: int = 800
    max_side: int = 1333
    canvases: tuple[tuple[int, int], ...] = ((800, 1088), (800, 1344))
    max_objects: int = 100
    mask_cells: int = 112
    flip: bool = True
    keep_empty: bool = False

    def __post_init__(self):
        for sides in self.canvases if isinstance(self.canvases, tuple) else (self.canvases,):
            whole = isinstance(sides, tuple) and len(sides) == 2 and all(isinstance(side, int) for side in sides)
            if not whole or not 1 <= sides[0] <= sides[1]:
                raise UserError(
                    f"input.canvases={self.canvases} must be pairs (shorter, longer) of whole px: "
                    "--config.input.canvases='((800,1088),(800,1344))'"
                )
        if not self.short_sides:
            raise UserError("input.short_sides is empty: give at least one, as --config.input.short_sides='(800,)'")
        for name in ("short_sides", "test_short_side", "max_side", "max_objects", "mask_cells"):
            if np.min(getattr(self, name)) < 1:
                raise UserError(f"input.{name}={getattr(self, name)} must be at least 1")
        shortest, longest = max(*self.short_sides, self.test_short_side), self.max_side
        if not any(short >= shortest and long >= longest for short, long in self.canvases):
            raise UserError(
                f"input.canvases={self.canvases} has none of at least {shortest} x {longest} px, which "
                "input.short_sides, input.test_short_side and input.max_side ask for: add one"
            )
        if self.mask_cells % 8:
            raise UserError(f"input.mask_cells={self.mask_cells} must be a multiple of 8")


class Size(NamedTuple):
    """Height and width, px."""

    height: int
    width: int


def resized(height: int, width: int, short_side: int, max_side: int) -> Size:
    """The photo's size after its shorter side became `short_side`, or its longer one `max_side` if that is less."""
    scale = short_side / min(height, width)
    if scale * max(height, width) > max_side:
        scale = max_side / max(height, width)
    return Size(max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))


def canvases(spec: InputSpec) -> tuple[Size, ...]:
    """All canvases, each lying and then standing, by area."""
    ordered = sorted(set(spec.canvases), key=lambda sides: sides[0] * sides[1])
    return tuple(size for short, long in ordered for size in (Size(short, long), Size(long, short)))


def canvas_of(sizes: Int[np.ndarray, "N 2"], spec: InputSpec) -> Int[np.ndarray, " N"]:
    """The position in `canvases` of each photo, by its height and width: it holds the photo in every size drawn."""
    largest, available = max(*spec.short_sides, spec.test_short_side), canvases(spec)
    places = {}
    for height, width in np.unique(sizes, axis=0).tolist():
        needed = resized(height, width, largest, spec.max_side)
        lying = width >= height
        places[height, width] = next(
            place
            for place, one in enumerate(available)
            if (one.width >= one.height) == lying and one.height >= needed.height and one.width >= needed.width
        )
    return np.array([places[tuple(size)] for size in sizes.tolist()], np.int64)
