"""A detector's parameters under the names and in the layouts of Detectron2 and of torchvision.

Kernels are [out, in, h, w] there. Two layouts differ: the first fully connected layer of the box head reads a region
as [c, p, p] there and as [p, p, c] here; torchvision counts the background as class 0, Detectron2 and we as class K.
"""

import re

import numpy as np

from univip_jax.weights.names import State, rename, to_detectron2, to_flat, to_torch

_NORM = (("/scale$", ".weight"), ("/bias$", ".bias"), ("/mean$", ".running_mean"), ("/var$", ".running_var"))
DETECTRON2_NAMES = (
    (r"^pyramid/(lateral|output)(\d)_norm", r"backbone.fpn_\1\2.norm"),
    (r"^pyramid/(lateral|output)(\d)", r"backbone.fpn_\1\2"),
    ("^proposals/conv", "proposal_generator.rpn_head.conv"),
    ("^proposals/logits", "proposal_generator.rpn_head.objectness_logits"),
    ("^proposals/deltas", "proposal_generator.rpn_head.anchor_deltas"),
    ("^box/logits", "roi_heads.box_predictor.cls_score"),
    ("^box/deltas", "roi_heads.box_predictor.bbox_pred"),
    (r"^box/(conv\d)_norm", r"roi_heads.box_head.\1.norm"),
    ("^box/", "roi_heads.box_head."),
    (r"^mask/conv(\d)_norm", r"roi_heads.mask_head.mask_fcn\1.norm"),
    (r"^mask/conv(\d)", r"roi_heads.mask_head.mask_fcn\1"),
    ("^mask/logits", "roi_heads.mask_head.predictor"),
    ("^mask/", "roi_heads.mask_head."),
    ("/kernel$", ".weight"),
    *_NORM,
)


def to_detectron2_detector(variables: dict, bins: int = 7) -> State:
    """All arrays of a detector under Detectron2's names; `bins`: side of the pooled regions of the box head."""
    backbone, others = _split(variables)
    state = {f"backbone.bottom_up.{name}": value for name, value in to_detectron2(to_torch(backbone)).items()}
    return state | {
        rename(name, DETECTRON2_NAMES): _to_torch_layout(name, value, bins) for name, value in others.items()
    }


def to_torchvision_detector(variables: dict, bins: int = 7) -> State:
    """All arrays of a detector under the names of torchvision's `MaskRCNN`, its background first."""
    backbone, others = _split(variables)
    state = {f"backbone.body.{name}": value for name, value in to_torch(backbone).items()}
    convs = sum(bool(re.fullmatch(r"box/conv\d/kernel", name)) for name in others)
    for name, value in others.items():
        array = _to_torch_layout(name, value, bins)
        if name.startswith("box/logits"):
            array = np.concatenate([array[-1:], array[:-1]])
        elif name.startswith(("box/deltas", "mask/logits")):  # of the background, which nobody reads
            of_one = 4 if name.startswith("box") else 1
            array = np.concatenate([np.zeros_like(array[:of_one]), array])
        state[torchvision_name(name, convs)] = array
    return state


def torchvision_name(name: str, convs: int) -> str:
    """`convs`: of the box head; without any, its layers are called fc6 and fc7."""
    kinds = {"lateral": "inner_blocks", "output": "layer_blocks"}
    if match := re.match(r"pyramid/(lateral|output)(\d)(_norm)?(.*)", name):
        kind, level, norm, rest = match.groups()
        name = f"backbone.fpn.{kinds[kind]}.{int(level) - 2}.{1 if norm else 0}{rest}"
    elif match := re.match(r"(box|mask)/conv(\d)(_norm)?(.*)", name):
        head, number, norm, rest = match.groups()
        name = f"roi_heads.{head}_head.{int(number) - 1}.{1 if norm else 0}{rest}"
    elif match := re.match(r"box/fc(\d)(.*)", name):
        layer = f"fc{int(match[1]) + 5}" if not convs else str(convs + 1)
        name = f"roi_heads.box_head.{layer}{match[2]}"
    rules = (
        ("^proposals/conv", "rpn.head.conv.0.0"),
        ("^proposals/logits", "rpn.head.cls_logits"),
        ("^proposals/deltas", "rpn.head.bbox_pred"),
        ("^box/logits", "roi_heads.box_predictor.cls_score"),
        ("^box/deltas", "roi_heads.box_predictor.bbox_pred"),
        ("^mask/deconv", "roi_heads.mask_predictor.conv5_mask"),
        ("^mask/logits", "roi_heads.mask_predictor.mask_fcn_logits"),
        ("/kernel$", ".weight"),
        *_NORM,
    )
    return rename(name, rules)


def _split(variables: dict) -> tuple[dict, State]:
    """The backbone's variables, and the others by path, without their collection: `box/fc1/kernel`."""
    backbone = {kind: tree["backbone"] for kind, tree in variables.items()}
    rest = {
        kind: {part: tree for part, tree in parts.items() if part != "backbone"} for kind, parts in variables.items()
    }
    return backbone, {name.partition("/")[2]: value for name, value in to_flat(rest).items()}


def _to_torch_layout(name: str, value: np.ndarray, bins: int) -> np.ndarray:
    if name == "mask/deconv/kernel":  # [h, w, in, out] to [in, out, h, w]
        return np.ascontiguousarray(value.transpose(2, 3, 0, 1))
    if name == "box/fc1/kernel":
        value = value.reshape(bins, bins, -1, value.shape[1]).transpose(2, 0, 1, 3).reshape(value.shape)
    if value.ndim == 4:
        return np.ascontiguousarray(value.transpose(3, 2, 0, 1))
    return np.ascontiguousarray(value.T)
