"""torchvision's Mask R-CNN of the same architecture: the parts of its `maskrcnn_resnet50_fpn_v2`, the RPN one deep.

Nothing is frozen, Detectron2's numbers of samples and proposals, autocast, channels last. Its suppression and pooling
are its compiled operators; its shapes are dynamic, so nothing is compiled ahead.
"""

from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import RPNHead

from benchmarks.detection.program import NUM_CLASSES, Program
from benchmarks.step.worker import seconds_per_call


def measure(program: Program, rounds: int, round_seconds: float, figures: dict[str, Any]) -> None:
    """Puts facts, and `seconds` a call of the step and of the forward pass at test, into `figures` as they come."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    model = make_model(program).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    images, targets = _batch(program, device)
    half = {"device_type": device.type, "dtype": torch.bfloat16, "enabled": program.dtype == "bfloat16"}

    def train() -> None:
        with torch.autocast(**half):
            loss = sum(model(images, targets).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def predict() -> None:
        with torch.inference_mode(), torch.autocast(**half):
            model(images)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    figures |= {"device": name, "version": f"torch {torch.__version__}, torchvision {torchvision.__version__}"}
    seconds = figures.setdefault("seconds", {})
    for name_of, call, share in (("step", train, 1.0), ("predict", predict, 0.5)):
        model.train(call is train)
        seconds_per_call(call, wait, 2)  # cuDNN chooses its algorithms
        count = max(1, round(share * round_seconds / seconds_per_call(call, wait, 1)))
        seconds[name_of] = [seconds_per_call(call, wait, count) for _ in range(rounds)]
        if call is train and device.type == "cuda":
            figures["peak_bytes"] = torch.cuda.max_memory_allocated()


def make_model(program: Program) -> nn.Module:
    """With random weights."""
    spec = program.detector().spec
    resnet = torchvision.models.resnet50(weights=None)
    backbone = _resnet_fpn_extractor(resnet, trainable_layers=5, norm_layer=nn.BatchNorm2d)
    sides = tuple((side,) for side in (32, 64, 128, 256, 512))
    convs, norm = [spec.channels] * 4, nn.BatchNorm2d
    model = MaskRCNN(
        backbone,
        NUM_CLASSES + 1,
        min_size=min(program.canvas),
        max_size=max(program.canvas),
        rpn_anchor_generator=AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * len(sides)),
        rpn_head=RPNHead(spec.channels, 3),
        rpn_post_nms_top_n_train=spec.proposals,
        box_head=FastRCNNConvFCHead((spec.channels, 7, 7), convs, [spec.head_width], norm_layer=norm),
        mask_head=MaskRCNNHeads(spec.channels, convs, 1, norm_layer=norm),
    )
    model.transform.postprocess = lambda result, *_: result  # ours pastes no masks on the device either
    return model


def _batch(program: Program, device: torch.device) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """The photos and objects of `Program.batch`, as torchvision takes them."""
    batch, images, targets = program.batch(), [], []
    height, width = program.canvas
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    for pixels, boxes, classes, exists in zip(batch.images, batch.boxes, batch.classes, batch.exists, strict=True):
        images.append((torch.from_numpy(pixels).permute(2, 0, 1) / 255).to(device))
        boxes = torch.from_numpy(boxes[exists])[:, [1, 0, 3, 2]]
        left, top, right, bottom = boxes.T[..., None, None]
        masks = ((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)).to(torch.uint8)
        labels = torch.from_numpy(classes[exists]).long() + 1  # 0 is background
        targets.append({"boxes": boxes.to(device), "labels": labels.to(device), "masks": masks.to(device)})
    return images, targets
