"""Anchors of each level of the pyramid: constants of a canvas."""

import numpy as np
from jaxtyping import Float

STRIDES = (4, 8, 16, 32, 64)  # px of P2 to P6
SIDES = (32, 64, 128, 256, 512)  # px, the root of the area
RATIOS = (0.5, 1.0, 2.0)  # height / width


def grid(length: int, stride: int) -> int:
    """Cells of a level along `length` px: stride 2 rounds up, at each level."""
    return -(-length // stride)


def anchors(height: int, width: int) -> tuple[Float[np.ndarray, "a 4"], ...]:
    """Anchors of P2 to P6 on a canvas, float32 yxyx in px, ordered by row, column and ratio.

    The first cell's are centred on the corner of the canvas (Detectron2's offset 0); none is rounded or left out.
    """
    levels = []
    for stride, side in zip(STRIDES, SIDES, strict=True):
        widths = np.sqrt(side**2 / np.array(RATIOS))
        sides = np.stack([widths * RATIOS, widths], axis=-1)  # [3, 2] height, width
        rows, columns = (np.arange(grid(length, stride)) * float(stride) for length in (height, width))
        centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)[:, :, None]
        corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=-1)
        levels.append(corners.reshape(-1, 4).astype(np.float32))
    return tuple(levels)
