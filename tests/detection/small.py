"""A small detector and painted photos with annotated rectangles, which the tests of its training share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from configs import detection
from data_prep.inputs import Request
from data_prep.prepare import prepare
from data_prep.record import Settings

CATEGORIES = [{"id": 3, "name": "red"}, {"id": 7, "name": "blue"}]
_COLOURS = {3: (220, 40, 40), 7: (40, 40, 220)}


def paint(folder: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Writes photos of one to three rectangles, all on one canvas: a program less; returns their COCO json."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(count):
        height, width = 90, 120
        canvas = rng.integers(90, 150, (height, width, 3)).astype(np.uint8)
        for _ in range(1 + index % 3):
            (w, h), category = rng.integers(24, 60, 2).tolist(), int(rng.choice(list(_COLOURS)))
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            canvas[y : y + h, x : x + w] = _COLOURS[category]
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": 100 + index, "category_id": category, "bbox": [x, y, w, h],
                 "area": w * h, "iscrowd": 0, "segmentation": [outline]}
            )  # fmt: skip
        Image.fromarray(canvas).save(folder / f"{index:03d}.png")
        images.append({"id": 100 + index, "file_name": f"{index:03d}.png", "height": height, "width": width})
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def prepare_set(photos: Path, contents: dict[str, Any], out: Path) -> str:
    """Prepares photos with the contents of their json; returns the set's folder."""
    annotations = out.parent / f"{out.name}.json"
    annotations.write_text(json.dumps(contents))
    settings = Settings("none", 0, 64, 100)
    prepare(Request(out, settings, images=(photos,), annotations=(annotations,), num_workers=1))
    return str(out)


def small_config(train: str, test: str = "", arg: str = "schedule=small") -> ConfigDict:
    """`configs/detection.py:schedule=small`, shrunk: 4 steps of 4 photos, whose losses are float32."""
    config = detection.get_config(arg)
    config.data.train, config.data.test = train, test
    config.batch_size = config.test.batch_size = 4
    config.model.width = 0.25
    config.log_every_steps, config.checkpoint_every_steps, config.precise_bn = 1, 2, 2
    config.schedule.steps, config.schedule.decay_at, config.schedule.warmup_steps = 1, (), 0
    config.input.update(short_sides=(48, 64), test_short_side=64, max_side=96, canvases=((64, 96),), max_objects=4)
    config.input.mask_cells = 16
    config.detector.update(
        channels=8, head_width=16, rpn_candidates=(20, 20), proposals=20, rpn_samples=16, rpn_positive=8,
        box_samples=8, box_positive=4, test_candidates=40, detections=10,
    )  # fmt: skip
    return config
