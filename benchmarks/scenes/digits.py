"""scikit-learn's handwritten digits as objects on paper, as in `demo.scenes`: scenes that need no data set."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from sklearn.datasets import load_digits

from benchmarks.scenes.compose import Objects
from demo.scenes import HELD_OUT, MARGIN, paint, paper, write_singles


def digit_objects() -> Objects:
    """The digits that are not held out."""
    data = load_digits()

    def paint_ground(canvas: Float[np.ndarray, "S S 3"], number: int) -> None:
        canvas[:] = paper(len(canvas))

    def paint_digit(canvas: Float[np.ndarray, "S S 3"], number: int, rng: np.random.Generator) -> None:
        paint(canvas, data.images[number], rng)

    return Objects(data.target[:-HELD_OUT], list(map(str, range(10))), paint_ground, paint_digit)


def write_labelled(root: Path, seed: int) -> tuple[Path, Path]:
    """Writes pictures of single digits in class folders; returns the folders `train` and `test`.

    32 px, of any size and place: 2,594 of 1,297 digits. The pictures of `test` are of 500 digits that no scene shows, 8
    of each: 4,000 pictures, but 500 handwritings.
    """
    write_singles(root, {"train": 2, "test": 8}, np.random.default_rng(seed), MARGIN)
    return root / "train", root / "test"
