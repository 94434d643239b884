"""Scenes of several labelled objects: the situation of UniVIP's Figure 1, with known classes and boxes.

`photo_objects` are photos in a folder with one folder per class, pasted on another photo; `benchmarks.scenes.digits`
has handwritten digits on paper. `data_prep` reads the scenes and their COCO json like any other photos. Every byte of a
scene follows from the seed and the objects.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from tqdm import tqdm

from univip_jax.common.errors import UserError
from univip_jax.data.photos import FORMATS, SUFFIXES

_QUALITY = 90  # of the JPEG
_TRIES = 50  # places tried per object


@dataclass(frozen=True)
class SceneSpec:
    """A distribution of scenes. Lengths in px."""

    side: int = 128
    num_objects: tuple[int, int] = (2, 4)  # least and largest
    object_side: tuple[int, int] = (40, 64)  # least and largest
    max_covered: float = 0.15  # share of an object that later ones may cover
    affinity: float = 0.7  # probability that an object is of its scene's class; else it is of any
    suffix: str = ".jpg"  # of the scenes' files


@dataclass(frozen=True)
class Objects:
    """N objects to compose scenes of. Both functions fill a square canvas in 0..255 in place."""

    labels: Int[np.ndarray, " N"]
    classes: list[str]  # names by label
    paint_ground: Callable[[Float[np.ndarray, "S S 3"], int], None]  # by the object of that number
    paint: Callable[[Float[np.ndarray, "S S 3"], int, np.random.Generator], None]


def list_classes(root: Path) -> list[tuple[Path, int]]:
    """Photos of a folder of class folders, each with its class number, sorted by class and name.

    Raises UserError if there is no photo.
    """
    classes = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    photos = [
        (path, label)
        for label, folder in enumerate(classes)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not photos:
        raise UserError(f"{root} has no photos in class folders; give a folder with one folder per class")
    return photos


def list_pair(train: Path, test: Path) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """`list_classes` of both; raises UserError if their classes differ."""
    pair = list_classes(train), list_classes(test)
    names = [{path.parent.name for path, _ in photos} for photos in pair]
    if names[0] != names[1]:
        raise UserError(f"{train} and {test} have different classes: {sorted(names[0] ^ names[1])[:5]}")
    return pair


def open_square(path: Path, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """The photo's largest centred square, at `side` px.

    Raises UserError if it cannot be read or has more pixels than Pillow accepts.
    """
    try:
        with Image.open(path, formats=FORMATS) as found:
            image = found.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore or remove it") from error
    margin_x, margin_y = (max(0, a - b) / 2 for a, b in (image.size, image.size[::-1]))
    box = (margin_x, margin_y, image.width - margin_x, image.height - margin_y)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box, reducing_gap=3.0))


def place_objects(rng: np.random.Generator, spec: SceneSpec) -> Int[np.ndarray, "N 3"]:
    """Places of the objects: (top, left, side) in px, the last in front.

    The first object is always placed. Another one is left out if it covers too much of earlier ones at every try.
    """
    covered = np.full((spec.side, spec.side), -1)
    placed: list[tuple[int, int, int]] = []
    for _ in range(rng.integers(spec.num_objects[0], spec.num_objects[1] + 1)):
        for _ in range(_TRIES):
            side = int(rng.integers(spec.object_side[0], spec.object_side[1] + 1))
            y, x = (int(value) for value in rng.integers(0, spec.side - side + 1, 2))
            after = covered.copy()
            after[y : y + side, x : x + side] = len(placed)
            hidden = [1 - (after == number).sum() / one[2] ** 2 for number, one in enumerate(placed)]
            if max(hidden, default=0.0) <= spec.max_covered:
                covered = after
                placed.append((y, x, side))
                break
    return np.array(placed)


def photo_objects(photos: list[tuple[Path, int]]) -> Objects:
    """The photos of `list_classes`; the ground is one of them too."""

    def paint(canvas: Float[np.ndarray, "S S 3"], number: int, rng: np.random.Generator | None = None) -> None:
        canvas[:] = open_square(photos[number][0], len(canvas))

    names = dict(sorted({(label, path.parent.name) for path, label in photos}))
    return Objects(np.array([label for _, label in photos]), list(names.values()), paint, paint)


def choose_objects(
    rng: np.random.Generator, labels: Int[np.ndarray, " N"], count: int, affinity: float
) -> Int[np.ndarray, " count"]:
    """Numbers of objects: with probability `affinity` each is of the one class that is drawn first, else of any."""
    same = np.flatnonzero(labels == rng.choice(labels))
    return np.where(rng.random(count) < affinity, rng.choice(same, count), rng.integers(0, len(labels), count))


def write_scenes(objects: Objects, out: Path, count: int, seed: int, spec: SceneSpec) -> Path:
    """Writes `out/photos/*` and `out/annotations.json` (COCO); returns the path of the json.

    Raises UserError if `out` has more scenes than `count`.
    """
    (out / "photos").mkdir(parents=True, exist_ok=True)
    if (found := len(list((out / "photos").iterdir()))) > count:
        raise UserError(f"{out} has {found} scenes, more than --count={count}: name another --out")
    images, annotations = [], []
    for number in tqdm(range(count), unit="scene", desc="composing"):
        rng = np.random.default_rng([seed, number])
        places = place_objects(rng, spec)
        chosen = choose_objects(rng, objects.labels, 1 + len(places), spec.affinity).tolist()
        canvas = np.empty((spec.side, spec.side, 3), np.float32)
        objects.paint_ground(canvas, chosen[0])
        name = f"{number:06d}{spec.suffix}"
        for (y, x, side), one in zip(places.tolist(), chosen[1:], strict=True):
            objects.paint(canvas[y : y + side, x : x + side], one, rng)
            category = int(objects.labels[one]) + 1
            box = {"bbox": [x, y, side, side], "area": side**2, "category_id": category, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, **box})
        Image.fromarray(canvas.round().astype(np.uint8)).save(out / "photos" / name, quality=_QUALITY)
        images.append({"id": number, "file_name": name, "height": spec.side, "width": spec.side})
    categories = [{"id": label, "name": name} for label, name in enumerate(objects.classes, start=1)]
    path = out / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path
