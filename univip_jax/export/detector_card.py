"""The card beside an exported detector: what it is, what it finds, how to load it."""

from pathlib import Path

from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.common.files import sha256_of
from univip_jax.evaluate.results import read_results
from univip_jax.export.detectron2.configs import NOT_BUILT
from univip_jax.export.parity import summary
from univip_jax.models.mask_rcnn import MaskRCNN
from univip_jax.weights.detector_file import DetectorFile

_DETECTRON2 = """# The config beside the file builds the network, and holds every setting that the weights need:
python tools/train_net.py --num-gpus 8 --eval-only --config-file {stem}.yaml"""
_TORCHVISION = """import torch, torchvision
from safetensors.torch import load_file
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

norm = torch.nn.BatchNorm2d
body = torchvision.models.{backbone}()
widths = [n * body.inplanes // 8 for n in (1, 2, 4, 8)]
layers = {{f"layer{{n}}": str(n - 1) for n in (1, 2, 3, 4)}}
backbone = BackboneWithFPN(body, layers, widths, {channels}, norm_layer={pyramid_norm})
sizes = (32, 64, 128, 256, 512)
anchors = AnchorGenerator(tuple((size,) for size in sizes), ((0.5, 1.0, 2.0),) * 5)
root = torch.tensor([0.5, 1.0, 2.0]).sqrt()
half = torch.stack([-1 / root, -root, 1 / root, root], 1) / 2
anchors.cell_anchors = [size * half for size in sizes]  # torchvision rounds its own
model = {model}(
    backbone, rpn_anchor_generator=anchors, rpn_head=RPNHead({channels}, 3),
    rpn_pre_nms_top_n_test=1000, rpn_post_nms_top_n_test=1000,
    box_head={box_head},
    box_predictor=FastRCNNPredictor({width}, {classes}),{mask}
)
model.load_state_dict(load_file("{file}"))  # strict: every key fits"""
_BOX_HEADS = {
    "4conv1fc": "FastRCNNConvFCHead(({channels}, 7, 7), [{channels}] * 4, [{width}], norm_layer=norm)",
    "2fc": "TwoMLPHead(49 * {channels}, {width})",
}
_MASK = """
    mask_head=MaskRCNNHeads({channels}, [{channels}] * 4, 1, norm_layer={norm}),
    mask_predictor=MaskRCNNPredictor({channels}, {channels}, {classes}),"""
_DEVIATIONS = """
torchvision detects a little differently. Its RoIAlign is not shifted by half a cell and takes 2 x 2 samples; its
anchors have another stride where a side is no multiple of 64; it resizes images without antialiasing, and pastes masks
into whole pixels. Class 0 is the background; `facts` in the file's metadata hold the categories.
"""


def _code(net: MaskRCNN, kind: str, out: Path) -> str:
    if kind == "detectron2_detector":
        return _DETECTRON2.format(stem=out.stem)
    if net.backbone.variant in NOT_BUILT or net.backbone.width != 1:
        return f"# torchvision builds no {net.backbone.variant} of width {net.backbone.width:g}: bring your own."
    norm = "norm" if net.box_head == "4conv1fc" else "None"
    values = {"channels": net.channels, "width": net.head_width, "classes": net.num_classes + 1, "norm": norm}
    return _TORCHVISION.format(
        backbone=net.backbone.variant, model="MaskRCNN" if net.masks else "FasterRCNN", file=out.name,
        pyramid_norm="norm" if net.norm else "None", box_head=_BOX_HEADS[net.box_head].format(**values),
        mask=_MASK.format(**values) if net.masks else "", **values,
    )  # fmt: skip


def write_detector_card(
    path: Path, file: DetectorFile, kind: str, out: Path, source: Path, licence: str, parity: dict
) -> None:
    """Writes Markdown with the front matter that model hubs read."""
    net, facts = file.net, file.facts
    mean, std = (values.astype(float).round(3).tolist() for values in (IMAGENET_MEAN, IMAGENET_STD))
    name = "Mask R-CNN" if net.masks else "Faster R-CNN"
    classes = ", ".join(f"{one['id']} {one['name']}" for one in facts.get("categories", [])) or "its file names none"
    step = f", step {facts['step']}" if facts.get("step") else ""
    results = read_results(source.parent) or {}
    ap = [f"{part} AP {results[part]['AP']:.1f}" for part in ("box", "mask") if results.get(part)]
    path.write_text(
        f"""---
license: {licence}
library_name: {kind.partition("_")[0]}
tags: [object-detection{", instance-segmentation" if net.masks else ""}]
---
# {name}, {net.backbone.variant} of width {net.backbone.width:g} with a pyramid, {net.num_classes} classes

- from `{source.name}` of `{source.resolve().parent.name}`{step}, sha256 `{sha256_of(source)}`
- images: RGB in 0..1, mean {mean}, std {std}; box head {net.box_head}, deltas (10, 10, 5, 5)
- evaluation beside it: {", ".join(ap) or "none"}
- classes, in their order, with their ids: {classes}
- proof (`{out.name}.parity.json`): {summary(parity)}

```
{_code(net, kind, out)}
```
{_DEVIATIONS if kind == "torchvision_detector" else ""}""",
        encoding="utf-8",
    )
