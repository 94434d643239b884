"""torchvision's Mask R-CNN of our architecture, from its own parts, with Detectron2's anchors and pooling."""

from torchvision_operators import aligned, greedy  # isort: skip (makes torchvision importable)

import numpy as np
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign, boxes, poolers

from univip_jax.detection.spec import DetectorSpec
from univip_jax.weights.detector_names import to_torchvision_detector

SIDES, STRIDES, RATIOS = (32, 64, 128, 256, 512), (4, 8, 16, 32, 64), (0.5, 1.0, 2.0)
poolers.roi_align, boxes.nms = aligned, greedy


class Anchors(AnchorGenerator):
    """Neither rounded nor at strides that depend on the canvas."""

    def generate_anchors(self, scales, aspect_ratios, dtype=torch.float32, device="cpu"):
        fine = 2**16  # what is rounded is a fraction of a px
        return super().generate_anchors([side * fine for side in scales], aspect_ratios, dtype, device) / fine

    def forward(self, image_list, feature_maps):
        strides = [[torch.tensor(stride)] * 2 for stride in STRIDES]
        levels = self.grid_anchors([level.shape[-2:] for level in feature_maps], strides)
        return [torch.cat(levels)] * len(image_list.image_sizes)


def torchvision_detector(net, spec: DetectorSpec, variables) -> MaskRCNN:
    """A ResNet-50 detector of ours with its weights; it must take all of them."""
    channels, width, convs = net.channels, net.head_width, net.box_head == "4conv1fc"
    norm = nn.BatchNorm2d if convs else None
    regions = channels, spec.box_bins, spec.box_bins
    head = FastRCNNConvFCHead(regions, [channels] * 4, [width], norm) if convs else TwoMLPHead(np.prod(regions), width)

    def pool(bins: int) -> MultiScaleRoIAlign:
        return MultiScaleRoIAlign(["0", "1", "2", "3"], bins, sampling_ratio=0)

    model = MaskRCNN(
        BackboneWithFPN(
            resnet50(weights=None),
            {f"layer{number + 1}": str(number) for number in range(4)},
            [256, 512, 1024, 2048],
            channels,
            norm_layer=nn.BatchNorm2d,
        ),
        rpn_anchor_generator=Anchors(tuple((side,) for side in SIDES), (RATIOS,) * len(SIDES)),
        rpn_head=RPNHead(channels, len(RATIOS)),
        rpn_pre_nms_top_n_test=spec.rpn_candidates[1],
        rpn_post_nms_top_n_test=spec.proposals,
        box_roi_pool=pool(spec.box_bins),
        box_head=head,
        box_predictor=FastRCNNPredictor(width, net.num_classes + 1),
        box_detections_per_img=spec.detections,
        mask_roi_pool=pool(spec.mask_bins),
        mask_head=MaskRCNNHeads(channels, [channels] * 4, 1, norm),
        mask_predictor=MaskRCNNPredictor(channels, channels, net.num_classes + 1),
    )
    state = {name: torch.tensor(value) for name, value in to_torchvision_detector(variables).items()}
    counters = {name for name in model.state_dict() if name.endswith("num_batches_tracked")}
    assert model.state_dict().keys() - counters == state.keys()
    model.load_state_dict(state, strict=False)
    return model.eval()
