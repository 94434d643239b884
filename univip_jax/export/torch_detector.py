"""An exported detector in PyTorch, from its file's arrays alone, whichever library's names they have.

The backbone is transformers' ResNet; pyramid and heads are plain functions, written from Detectron2's sources
(modeling/backbone/fpn.py, proposal_generator/rpn.py, roi_heads/{box_head,fast_rcnn,mask_head}.py) and torchvision's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from univip_jax.export.consumers import extra, transformers_model
from univip_jax.models.resnet import ResNet
from univip_jax.weights.names import State

# Normalised images [N, H, W, 3], H and W multiples of 32, and regions [n, 7, 7, c] and [n, 14, 14, c], to all outputs.
DetectorOutputs = Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]]


class Layers(NamedTuple):
    """A library's names: `{}` stands for a number, which begins at `first`; of pairs `conv` and `norm` follow."""

    first: int
    conv: str
    norm: str
    lateral: str
    output: str
    rpn: str
    logits: str
    deltas: str
    box_conv: str
    fc: tuple[str, ...]  # with and without convolutions before them
    box: str
    mask_conv: str
    deconv: str
    mask: str
    background: int  # its class; -1: the last


DETECTRON2 = Layers(
    1, "", ".norm", "backbone.fpn_lateral{}", "backbone.fpn_output{}", "proposal_generator.rpn_head.conv",
    "proposal_generator.rpn_head.objectness_logits", "proposal_generator.rpn_head.anchor_deltas",
    "roi_heads.box_head.conv{}", ("roi_heads.box_head.fc1", "roi_heads.box_head.fc2"), "roi_heads.box_predictor",
    "roi_heads.mask_head.mask_fcn{}", "roi_heads.mask_head.deconv", "roi_heads.mask_head.predictor", -1,
)  # fmt: skip
TORCHVISION = Layers(
    0, ".0", ".1", "backbone.fpn.inner_blocks.{}", "backbone.fpn.layer_blocks.{}", "rpn.head.conv.0.0",
    "rpn.head.cls_logits", "rpn.head.bbox_pred", "roi_heads.box_head.{}",
    ("roi_heads.box_head.5", "roi_heads.box_head.fc6", "roi_heads.box_head.fc7"), "roi_heads.box_predictor",
    "roi_heads.mask_head.{}", "roi_heads.mask_predictor.conv5_mask", "roi_heads.mask_predictor.mask_fcn_logits", 0,
)  # fmt: skip


def torch_detector_outputs(net: ResNet, backbone: State, state: State, names: Layers) -> DetectorOutputs:
    """What the file computes: maps `res2` to `res5` and `P2` to `P6`, RPN, class, box and mask outputs, as ours.

    Args:
      backbone: its arrays under torchvision's names.
      state: all arrays under the library's.
    """
    torch = extra("torch")
    model = transformers_model(net, backbone)
    run = _Functions(torch, {name: torch.tensor(value) for name, value in state.items()}, names)

    def outputs(images: np.ndarray, box_regions: np.ndarray, mask_regions: np.ndarray) -> dict[str, np.ndarray]:
        pixels, boxes, masks = (torch.tensor(x).permute(0, 3, 1, 2) for x in (images, box_regions, mask_regions))
        with torch.inference_mode():
            maps = model(pixels, output_hidden_states=True).hidden_states[1:]
            levels = run.pyramid(maps)
            found = {f"res{n}": _last(x) for n, x in enumerate(maps, start=2)}
            found |= {f"P{n}": _last(x) for n, x in enumerate(levels, start=2)}
            found |= run.proposals(levels) | run.box(boxes) | run.mask(masks)
        return {name: value.numpy() for name, value in found.items()}

    return outputs


def _last(x: Any) -> Any:
    """Channels last."""
    return x.permute(0, 2, 3, 1)


class _Functions:
    """The layers of a state dict, channels first."""

    def __init__(self, torch: Any, state: dict[str, Any], names: Layers):
        self.torch, self.functional, self.state, self.names = torch, torch.nn.functional, state, names

    def conv(self, name: str, x: Any) -> Any:
        weight = self.state[f"{name}.weight"]
        return self.functional.conv2d(x, weight, self.state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def conv_norm(self, name: str, x: Any) -> Any:
        x, norm = self.conv(name + self.names.conv, x), name + self.names.norm
        if f"{norm}.weight" not in self.state:
            return x
        kinds = ("running_mean", "running_var", "weight", "bias")
        return self.functional.batch_norm(x, *(self.state[f"{norm}.{kind}"] for kind in kinds))

    def convs(self, name: str, x: Any) -> Any:
        number = self.names.first
        while name.format(number) + f"{self.names.conv}.weight" in self.state:
            x = self.functional.relu(self.conv_norm(name.format(number), x))
            number += 1
        return x

    def linear(self, name: str, x: Any) -> Any:
        return self.functional.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def pyramid(self, maps: list[Any]) -> list[Any]:
        levels: list[Any] = []
        above = None
        for position in (3, 2, 1, 0):
            number = position + (2 if self.names.first else 0)  # Detectron2 counts P2 to P5
            x = self.conv_norm(self.names.lateral.format(number), maps[position])
            above = x if above is None else x + self.functional.interpolate(above, scale_factor=2, mode="nearest")
            levels.insert(0, self.conv_norm(self.names.output.format(number), above))
        return [*levels, self.functional.max_pool2d(levels[-1], 1, 2)]

    def proposals(self, levels: list[Any]) -> dict[str, Any]:
        hidden = [self.functional.relu(self.conv(self.names.rpn, level)) for level in levels]
        logits = [_last(self.conv(self.names.logits, x)).flatten(1) for x in hidden]
        deltas = [_last(self.conv(self.names.deltas, x)).reshape(len(x), -1, 4) for x in hidden]
        return {"rpn_logits": self.torch.cat(logits, 1), "rpn_deltas": self.torch.cat(deltas, 1)}

    def box(self, regions: Any) -> dict[str, Any]:
        x = self.convs(self.names.box_conv, regions).flatten(1)
        for name in self.names.fc:
            if f"{name}.weight" in self.state:
                x = self.functional.relu(self.linear(name, x))
        logits, deltas = (self.linear(f"{self.names.box}.{kind}", x) for kind in ("cls_score", "bbox_pred"))
        if self.names.background == 0:
            logits, deltas = logits.roll(-1, 1), deltas[:, 4:]
        return {"classes": logits, "boxes": deltas.reshape(len(deltas), -1, 4)}

    def mask(self, regions: Any) -> dict[str, Any]:
        if f"{self.names.deconv}.weight" not in self.state:
            return {}
        x, name = self.convs(self.names.mask_conv, regions), self.names.deconv
        x = self.functional.conv_transpose2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride=2)
        masks = _last(self.conv(self.names.mask, self.functional.relu(x)))
        return {"masks": masks[..., 1:] if self.names.background == 0 else masks}
