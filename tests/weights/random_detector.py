"""Small detectors with values that fresh ones do not have."""

from functools import cache, partial

import jax
import pytest

from tests.weights.random_weights import draw
from univip_jax.models.mask_rcnn import MaskRCNN, init
from univip_jax.models.resnet import ResNet

FULL = MaskRCNN(ResNet("resnet18", 0.125), 3, channels=8, head_width=16)
PLAIN = MaskRCNN(ResNet("resnet50", 0.0625), 2, channels=4, head_width=8, box_head="2fc", norm=False, masks=False)
NETS = [
    FULL,
    PLAIN,
    FULL.clone(backbone=PLAIN.backbone, masks=False),
    PLAIN.clone(backbone=FULL.backbone, norm=True, masks=True),
]
every_net = pytest.mark.parametrize("net", NETS, ids=lambda net: f"{net.backbone.variant}-{net.box_head}-{net.masks}")


@cache
def detector_variables(net: MaskRCNN, seed: int = 0) -> dict:
    """Random parameters and batch statistics."""
    return draw(jax.eval_shape(partial(init, net), jax.random.key(0)), seed)
