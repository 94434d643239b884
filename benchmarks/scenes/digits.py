"""scikit-learn's handwritten digits as objects on paper, as in `demo.scenes`: scenes that need no data set."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.scenes.compose import Objects
from demo.scenes import HELD_OUT, MARGIN, make_single, paint, paper

_SINGLES = {"train": 2, "test": 8}  # pictures of each digit: 2,594 of 1,297 digits, 4,000 of 500


def digit_objects() -> Objects:
    """The digits that are not held out."""
    data = load_digits()

    def paint_ground(canvas: Float[np.ndarray, "S S 3"], number: int) -> None:
        canvas[:] = paper(len(canvas))

    def paint_digit(canvas: Float[np.ndarray, "S S 3"], number: int, rng: np.random.Generator) -> None:
        paint(canvas, data.images[number], rng)

    return Objects(data.target[:-HELD_OUT], list(map(str, range(10))), paint_ground, paint_digit)


def write_singles(root: Path, seed: int) -> tuple[Path, Path]:
    """Writes pictures of single digits in class folders; returns the folders `train` and `test`.

    32 px, of any size and place. The pictures of `test` are of 500 digits that no scene shows, 8 of each: 4,000
    pictures, but 500 handwritings.
    """
    data, rng = load_digits(), np.random.default_rng(seed)
    for name, part in (("train", np.s_[:-HELD_OUT]), ("test", np.s_[-HELD_OUT:])):
        for number, (digit, label) in enumerate(zip(data.images[part], data.target[part], strict=True)):
            folder = root / name / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            for copy in range(_SINGLES[name]):
                picture = make_single(digit, rng)[MARGIN:-MARGIN, MARGIN:-MARGIN]
                Image.fromarray(picture).save(folder / f"{number:04d}_{copy}.png")
    return root / "train", root / "test"
