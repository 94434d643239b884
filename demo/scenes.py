"""Scenes of several handwritten digits, and single digits to evaluate on, from scikit-learn's `load_digits`.

Real handwriting (UCI, 1,797 digits of 8x8 px), each with a dark pen and its own size and place on the same paper. With
photos or colours behind the digits, colour distinguishes two small views best, and a short run learns colour or
nothing instead of digits (demo/notes.md). The last 500 digits are held out: no scene shows them.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

HELD_OUT = 500
SCENE_SIDE = 64  # px
SINGLE_SIDE = 36  # px
MARGIN = 2  # px around a single digit, which the centre crop of the evaluation cuts off
_PAPER = 235.0
_AFFINITY = 0.7  # probability that a digit is of its scene's class; else it is of any


def paper(side: int) -> np.ndarray:
    """Blank paper: float32 [side, side, 3]."""
    return np.full((side, side, 3), _PAPER, np.float32)


def paint(region: np.ndarray, digit: np.ndarray, rng: np.random.Generator) -> None:
    """Blends a digit [8, 8] in 0..16, enlarged, into the region [S, S, 3] of a canvas, in place, in a dark colour."""
    picture = Image.fromarray((digit * 255 / 16).astype(np.uint8)).resize(region.shape[:2], Image.Resampling.BICUBIC)
    alpha = np.asarray(picture, np.float32)[..., None] / 255
    region[:] = (1 - alpha) * region + alpha * rng.uniform(0, 60, 3)


def make_scene(digits: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """2 to 4 of `digits` [N, 8, 8], of 20 to 32 px, with little overlap: uint8 [SCENE_SIDE, SCENE_SIDE, 3].

    A scene has a class, and most of its digits are of it: scenes and instances have something in common to be learned.
    """
    canvas = paper(SCENE_SIDE)
    taken = np.zeros((SCENE_SIDE, SCENE_SIDE), bool)
    wanted, painted = rng.integers(2, 5), 0
    of_class = np.flatnonzero(labels == rng.choice(labels))
    for attempt in range(50):
        # A large first digit in the middle leaves room for small ones only.
        side = int(rng.integers(20, 33)) if attempt < 25 else 20
        y, x = rng.integers(0, SCENE_SIDE - side + 1, 2)
        place = np.s_[y : y + side, x : x + side]
        if painted < wanted and taken[place].mean() <= 0.1:
            chosen = rng.choice(of_class) if rng.random() < _AFFINITY else rng.integers(len(digits))
            paint(canvas[place], digits[chosen], rng)
            taken[place] = True
            painted += 1
    return canvas.round().astype(np.uint8)


def make_single(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One digit of 14 to 32 px anywhere on its paper: uint8 [SINGLE_SIDE, SINGLE_SIDE, 3]."""
    canvas = paper(SINGLE_SIDE)
    side = int(rng.integers(14, SINGLE_SIDE - 2 * MARGIN + 1))
    y, x = rng.integers(MARGIN, SINGLE_SIDE - MARGIN - side + 1, 2)
    paint(canvas[y : y + side, x : x + side], digit, rng)
    return canvas.round().astype(np.uint8)


def write_photos(root: Path, num_scenes: int, seed: int) -> None:
    """Writes `scenes/*.png`, and single digits in class folders: `labelled/train/<digit>/`, `labelled/test/<digit>/`.

    Scenes and labelled training photos show the same digits, test photos the held-out ones, 4 pictures of each.
    """
    data, rng = load_digits(), np.random.default_rng(seed)
    known, labels = data.images[:-HELD_OUT], data.target[:-HELD_OUT]
    (root / "scenes").mkdir(parents=True)
    for index in range(num_scenes):
        Image.fromarray(make_scene(known, labels, rng)).save(root / "scenes" / f"{index:05d}.png")
    write_singles(root / "labelled", {"train": 2, "test": 4}, rng)


def write_singles(root: Path, copies: dict[str, int], rng: np.random.Generator, margin: int = 0) -> None:
    """Writes `copies` pictures of each digit to `train/<digit>/`, of the held-out ones to `test/<digit>/`.

    `margin` px are cut off on each side.
    """
    data = load_digits()
    for name, part in (("train", np.s_[:-HELD_OUT]), ("test", np.s_[-HELD_OUT:])):
        for index, (digit, label) in enumerate(zip(data.images[part], data.target[part], strict=True)):
            folder = root / name / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            for copy in range(copies[name]):
                picture = make_single(digit, rng)[margin : SINGLE_SIDE - margin, margin : SINGLE_SIDE - margin]
                Image.fromarray(picture).save(folder / f"{index:05d}_{copy}.png")
