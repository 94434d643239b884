"""Photos of rectangles with a COCO json that has all it may have, and detectors that need no weights."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from pycocotools import mask as rle

from data_prep.inputs import Request
from data_prep.prepare import prepare
from data_prep.record import Settings
from univip_jax.data.detection.canvas import InputSpec, resized
from univip_jax.detection.detections import Detections
from univip_jax.detection.predict import Predicted
from univip_jax.detection.spec import DetectorSpec
from univip_jax.detection.step import Detector
from univip_jax.models.mask_rcnn import MaskRCNN
from univip_jax.models.resnet import ResNet
from univip_jax.sharding import make_mesh

SPEC = InputSpec(short_sides=(64,), test_short_side=64, max_side=96, canvases=((64, 96),))
TINY = DetectorSpec(
    channels=8, head_width=16, rpn_candidates=(40, 40), proposals=20, test_candidates=60, detections=10
)  # fmt: skip
NET = MaskRCNN(ResNet("resnet10", 0.125), 3, channels=8, head_width=16)
DETECTOR = Detector(NET, TINY)
CATEGORIES = [{"id": 9, "name": "plate"}, {"id": 2, "name": "cup"}, {"id": 5, "name": "hat"}]
CROWD = {"image_id": 7, "category_id": 2, "iscrowd": 1, "bbox": [120, 90, 80, 60]}


def write_scene(folder: Path, *, text_ids: bool = False) -> dict[str, Any]:
    """Six photos, of which one has no object and one, the only standing one, a crowd beside others; and their json."""
    folder.mkdir(parents=True)
    rng, images, annotations = np.random.default_rng(0), [], []
    for index, image_id in enumerate((30, 7, 200, 1, 12, 100)):
        width, height = (200, 160) if image_id != 7 else (160, 200)
        pixels = rng.integers(80, 160, (height, width, 3), dtype=np.uint8)
        for number in range(0 if image_id == 1 else 2 + index % 2):
            x, y = 8 + 52 * number, 12 + 10 * number
            w, h = int(rng.integers(30, 50)), int(rng.integers(36, 60))
            pixels[y : y + h, x : x + w] = rng.integers(0, 255, 3)
            outlines = [[x, y, x + w, y, x + w, y + h, x, y + h]], _runs(height, width, x, y, w, h)
            annotations.append(
                {"image_id": image_id, "category_id": (9, 2, 5)[number], "bbox": [x, y, w, h], "area": w * h,
                 "iscrowd": 0, "segmentation": outlines[index % 2]}
            )  # fmt: skip
        Image.fromarray(pixels).save(folder / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width})
    x, y, w, h = (100, 130, 60, 70)
    annotations.append(CROWD | {"bbox": [x, y, w, h], "area": w * h, "segmentation": _runs(200, 160, x, y, w, h)})
    for number, one in enumerate(annotations, start=1):
        one["id"] = number
    if text_ids:
        for one in images:
            one["id"] = f"photo {one['id']}"
        for one in annotations:
            one["image_id"] = f"photo {one['image_id']}"
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def _runs(height: int, width: int, x: int, y: int, w: int, h: int) -> dict[str, Any]:
    """A rectangle as uncompressed run lengths, column by column."""
    filled = np.zeros([height, width], np.uint8)
    filled[y : y + h, x : x + w] = 1
    column = np.concatenate([[0], filled.T.ravel(), [2]])
    ends = np.flatnonzero(np.diff(column))
    return {"size": [height, width], "counts": np.diff(np.concatenate([[0], ends])).tolist()}


def prepare_scene(folder: Path, contents: dict[str, Any], out: Path, max_side: int = 0) -> Path:
    """The prepared set."""
    path = out.parent / f"{out.name}.json"
    path.write_text(json.dumps(contents))
    settings = Settings("none", 0, 64, 100, max_side=max_side)
    prepare(Request(out, settings, images=(folder,), annotations=(path,), num_workers=1))
    return out


def outline(annotation: dict[str, Any], height: int, width: int) -> np.ndarray:
    """An annotation's mask by pycocotools."""
    shape = annotation["segmentation"]
    if isinstance(shape, list) or isinstance(shape["counts"], list):
        shape = rle.frPyObjects(shape, height, width)
    return rle.decode(rle.merge(shape) if isinstance(shape, list) else shape)


class Oracle:
    """In place of `Predictor`: for each photo the detections that it is given, in the frame of the json.

    Each is (category id, x, y, width, height, score); its mask fills its box.
    """

    compile_seconds = 0.0

    def __init__(self, truth: Any, test: Any, found: dict[Any, list[tuple[float, ...]]]):
        self._frames = dict(zip(truth.photos.tolist(), truth.contents["images"], strict=True))
        self._classes = {category.id: place for place, category in enumerate(test.categories)}
        self._sizes, self._found = test.sizes, found

    def __call__(self, batches: Any) -> Any:
        for rows, photos in batches:
            found = [self._of(int(photo)) for photo in rows.photos]
            for size, photo in zip(photos.sizes, rows.photos, strict=True):
                assert tuple(size) == resized(*self._sizes[photo].tolist(), 64, 96)
            detections = Detections(*map(np.stack, zip(*found, strict=True)))
            yield rows, Predicted(detections, np.ones([*detections.scores.shape, 28, 28], np.float16))

    def _of(self, photo: int) -> tuple[np.ndarray, ...]:
        frame, on_canvas = self._frames[photo], resized(*self._sizes[photo].tolist(), 64, 96)
        scale = np.tile(np.divide(on_canvas, (frame["height"], frame["width"])), 2)
        boxes, scores, classes = np.zeros([8, 4], np.float32), np.zeros(8, np.float32), np.zeros(8, np.int32)
        given = sorted(self._found.get(frame["id"], ()), key=lambda one: -one[-1])
        for place, (category, x, y, width, height, score) in enumerate(given):
            boxes[place] = np.array([y, x, y + height, x + width]) * scale
            scores[place], classes[place] = score, self._classes[category]
        return boxes, scores, classes, np.arange(8) < len(given), np.array(False)


def mesh_of(number: int) -> Any:
    """A mesh of the first devices."""
    return make_mesh(jax.devices()[:number])
