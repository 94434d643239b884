"""What is timed: a detector of one framework on one canvas, with made-up photos and objects."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import detection
from univip_jax.config import to_spec
from univip_jax.data.detection.canvas import InputSpec
from univip_jax.detection.spec import DetectorSpec
from univip_jax.detection.step import Detector
from univip_jax.models.mask_rcnn import MaskRCNN
from univip_jax.models.univip import ModelSpec, make_backbone
from univip_jax.types import DetectionBatch

FRAMEWORKS = ("jax", "torchvision")
NUM_CLASSES = 80
_OBJECTS = 7  # per photo, as COCO's mean


@dataclass(frozen=True)
class Program:
    """A row of the table."""

    framework: str
    canvas: tuple[int, int]  # height and width, px
    batch_size: int
    dtype: str
    small: bool = False  # the network of `schedule=small`
    parts: bool = False  # JAX: the parts of the step are compiled and timed too
    execute: bool = True  # False: compile only

    def __str__(self) -> str:
        return f"{self.framework} {self.canvas[0]}x{self.canvas[1]} {self.batch_size}"

    def config(self) -> ConfigDict:
        """The config of a training with this step."""
        config = detection.get_config(f"schedule={'small' if self.small else '1x'}")
        config.dtype = self.dtype
        return config

    def detector(self) -> Detector:
        """The network and its numbers."""
        config, dtype = self.config(), jnp.dtype(self.dtype)
        backbone = make_backbone(to_spec(ModelSpec, config, "model")).clone(dtype=dtype)
        spec = to_spec(DetectorSpec, config, "detector")
        parts = spec.channels, spec.head_width, spec.box_head, spec.norm, spec.masks
        return Detector(MaskRCNN(backbone, NUM_CLASSES, *parts, dtype), spec)

    def batch(self) -> DetectionBatch:
        """Random pixels that fill the canvas, and random objects, as large as COCO's: NumPy arrays."""
        given = to_spec(InputSpec, self.config(), "input")
        random, (height, width) = np.random.default_rng(0), self.canvas
        photos, objects, cells = self.batch_size, given.max_objects, given.mask_cells
        sides = np.exp(random.uniform(np.log(16), np.log(0.8 * min(self.canvas)), (photos, objects, 2)))
        corners = random.uniform(0, 1, (photos, objects, 2)) * (np.array(self.canvas) - sides)
        return DetectionBatch(
            images=random.integers(0, 256, (photos, height, width, 3), np.uint8),
            sizes=np.tile(np.array(self.canvas, np.float32), (photos, 1)),
            boxes=np.concatenate([corners, corners + sides], axis=-1).astype(np.float32),
            classes=random.integers(0, NUM_CLASSES, (photos, objects)).astype(np.int32),
            masks=np.full((photos, objects, cells, cells // 8), 255, np.uint8),
            exists=np.tile(np.arange(objects) < _OBJECTS, (photos, 1)),
            photos=np.arange(photos, dtype=np.int32),
        )
