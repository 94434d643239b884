"""The numbers of a detector that are no weights: Detectron2's defaults with those of ORL's and DenseCL's protocol."""

from dataclasses import dataclass

import numpy as np

from univip_jax.common.errors import UserError
from univip_jax.models.mask_rcnn import BOX_HEADS

_COUNTS = ("channels", "head_width", "rpn_candidates", "proposals", "rpn_samples", "rpn_positive", "box_samples")
_COUNTS += ("box_positive", "box_bins", "mask_bins", "test_candidates", "detections")
_SHARES = ("rpn_nms", "rpn_match", "box_match", "score_threshold", "test_nms")


@dataclass(frozen=True)
class DetectorSpec:
    """Sizes, thresholds and numbers of samples; IoUs and scores are shares, sides px.

    Attributes:
      channels, head_width, box_head, norm, masks: of `MaskRCNN`.
      rpn_candidates: anchors a level that go into suppression, in training and at test.
      proposals: that leave it, over all levels.
      rpn_samples, rpn_positive: anchors an image that are learnt from, and the most positive ones among them.
      box_samples, box_positive: the same of proposals.
      mask_side: of a mask, px.
    """

    channels: int = 256
    head_width: int = 1024
    box_head: str = "4conv1fc"
    norm: bool = True
    masks: bool = True
    rpn_candidates: tuple[int, int] = (2000, 1000)
    proposals: int = 1000
    rpn_nms: float = 0.7
    rpn_match: tuple[float, float] = (0.3, 0.7)
    rpn_samples: int = 256
    rpn_positive: int = 128
    box_match: float = 0.5
    box_samples: int = 512
    box_positive: int = 128
    box_bins: int = 7
    mask_bins: int = 14
    score_threshold: float = 0.05
    test_candidates: int = 2000
    test_nms: float = 0.5
    detections: int = 100

    def __post_init__(self):
        if self.box_head not in BOX_HEADS:
            raise UserError(
                f"box_head={self.box_head!r} is unknown: give --config.detector.box_head={' or '.join(BOX_HEADS)}"
            )
        for name, ordered in (("rpn_candidates", False), ("rpn_match", True)):
            value = getattr(self, name)
            if np.shape(value) != (2,) or (ordered and value[0] > value[1]):
                usual = getattr(DetectorSpec, name)
                raise UserError(
                    f"detector.{name}={value} must be two numbers{', the lower first' * ordered}, as {usual}"
                )
        for name in _COUNTS:
            if np.min(getattr(self, name)) < 1:
                raise UserError(f"detector.{name}={getattr(self, name)} must be at least 1")
        for name in _SHARES:
            value = getattr(self, name)
            if not np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 1)):
                raise UserError(f"detector.{name}={value} must lie between 0 and 1")
        for part in ("rpn", "box"):
            positive, number = getattr(self, f"{part}_positive"), getattr(self, f"{part}_samples")
            if positive > number:
                raise UserError(f"detector.{part}_positive={positive} is more than detector.{part}_samples={number}")

    @property
    def mask_side(self) -> int:
        """Side of a mask, px: the mask head doubles its input."""
        return 2 * self.mask_bins


RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of the deltas (dx, dy, dw, dh)
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
