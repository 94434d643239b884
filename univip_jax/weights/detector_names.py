"""A detector's parameters under the names and in the layouts of Detectron2 and of torchvision, and back.

Kernels are [out, in, h, w] there. Two layouts differ: the first fully connected layer of the box head reads a region
as [c, p, p] there and as [p, p, c] here; torchvision counts the background as class 0, Detectron2 and we as class K.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from univip_jax.common.errors import UserError, shorten
from univip_jax.models.mask_rcnn import MaskRCNN, init
from univip_jax.models.resnet import ResNet
from univip_jax.weights.names import (
    State,
    Tensors,
    from_detectron2,
    from_flat,
    from_torch,
    rename,
    require_sound,
    to_detectron2,
    to_flat,
    to_torch,
    values_of,
)

_NORM = (("/scale$", ".weight"), ("/bias$", ".bias"), ("/mean$", ".running_mean"), ("/var$", ".running_var"))
_DETECTRON2 = (
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
    return state | {rename(name, _DETECTRON2): _to_torch_layout(name, value, bins) for name, value in others.items()}


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
        state[_torchvision_name(name, convs)] = array
    return state


def _torchvision_name(name: str, convs: int) -> str:
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


class Dialect(NamedTuple):
    """How a library names a detector's arrays and lays them out."""

    begin: str  # the backbone's first convolution, by which a file is known
    body: str  # how the names of the backbone begin, a regular expression
    backbone: Callable[[Tensors, str, str], tuple[ResNet, dict]]  # of tensors, source and stem
    name: Callable[[str, int], str]  # theirs for ours, such as `params/box/fc1/kernel`, with so many convs in `box`
    value: Callable[[str, np.ndarray], np.ndarray]  # ours for theirs, by our name without its collection


def _from_torch_layout(name: str, value: np.ndarray, bins: int = 7) -> np.ndarray:
    if name == "mask/deconv/kernel":
        return value.transpose(2, 3, 0, 1)[::-1, ::-1]
    if name == "box/fc1/kernel":
        return value.T.reshape(-1, bins, bins, len(value)).transpose(1, 2, 0, 3).reshape(value.shape[::-1])
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _from_torchvision(name: str, value: np.ndarray) -> np.ndarray:
    if name.startswith("box/logits"):
        value = np.concatenate([value[1:], value[:1]])
    elif name.startswith(("box/deltas", "mask/logits")):
        value = value[4 if name.startswith("box") else 1 :]
    return _from_torch_layout(name, value)


def _below(body: str, tensors: Tensors, to: str = "") -> Tensors:
    return {re.sub(body, to, name): tensor for name, tensor in tensors.items() if re.match(body, name)}


_OUR_BODY, _DETECTRON2_BODY, _TORCHVISION_BODY = (
    "^(params|batch_stats)/backbone/", r"^backbone\.bottom_up\.", r"^backbone\.body\."
)  # fmt: skip
OURS = Dialect(
    "params/backbone/conv1/kernel",
    _OUR_BODY,
    lambda tensors, *rest: from_flat(_below(_OUR_BODY, tensors, r"\1/"), *rest),
    lambda name, _: name,
    lambda _, value: value,
)
DETECTRON2 = Dialect(
    "backbone.bottom_up.stem.conv1.weight",
    _DETECTRON2_BODY,
    lambda tensors, *rest: from_torch(from_detectron2(_below(_DETECTRON2_BODY, tensors)), *rest),
    lambda name, _: rename(name.partition("/")[2], _DETECTRON2),
    _from_torch_layout,
)
TORCHVISION = Dialect(
    "backbone.body.conv1.weight",
    _TORCHVISION_BODY,
    lambda tensors, *rest: from_torch(_below(_TORCHVISION_BODY, tensors), *rest),
    lambda name, convs: _torchvision_name(name.partition("/")[2], convs),
    _from_torchvision,
)
# An unknown name that begins so is a part of another architecture; but for counters and constants.
_INSIDE = re.compile(r"(params/|batch_stats/|backbone\.|proposal_generator\.|rpn\.|roi_heads\.)")
_UNUSED = re.compile(r".*(num_batches_tracked|anchor_generator\.cell_anchors\.\d+)$")


def from_names(tensors: Tensors, dialect: Dialect, source: str, stem: str = "small") -> tuple[MaskRCNN, State]:
    """The network, and its variables by our names, `params/box/fc1/kernel`; half precision becomes float32.

    Raises UserError: `source` lacks an array of a detector, or has one too many, of another shape, or with values that
    are not finite.
    """
    backbone, variables = dialect.backbone(tensors, source, stem)
    convs = 4 if dialect.name("params/box/conv1/kernel", 4) in tensors else 0

    def theirs(name: str) -> str:
        return dialect.name(name, convs)

    net = _recognise(tensors, theirs, backbone, "4conv1fc" if convs else "2fc", source)
    shapes = flatten_dict(jax.eval_shape(partial(init, net), jax.random.key(0)), sep="/")
    expected = {theirs(name): name for name in shapes if not re.match(_OUR_BODY, name)}
    what = f"{source} looks like a detector with {net.box_head} and {net.num_classes} classes, but"
    if missing := sorted(expected.keys() - tensors.keys()):
        raise UserError(f"{what} lacks {shorten(missing)}: give the file of a whole detector")
    inside = {name for name in tensors if _INSIDE.match(name) and not re.match(dialect.body, name)}
    if extra := sorted(name for name in inside - expected.keys() if not _UNUSED.match(name)):
        raise UserError(f"{what} also holds {shorten(extra)}: another architecture, which would find other objects")
    flat = to_flat({kind: {"backbone": tree} for kind, tree in variables.items()})
    for name, ours in expected.items():
        value = values_of(tensors[name])
        require_sound(value, name, source)
        value = dialect.value(ours.partition("/")[2], value)
        if value.shape != shapes[ours].shape:
            raise UserError(f"{what} {name} is {list(tensors[name].shape)}: another architecture")
        flat[ours] = np.ascontiguousarray(value, np.float32)
    return net, flat


def _recognise(
    tensors: Tensors, theirs: Callable[[str], str], backbone: ResNet, box_head: str, source: str
) -> MaskRCNN:
    """The network of these arrays, by the lengths of three biases and what there is."""

    def length(name: str) -> int:
        tensor = tensors.get(theirs(f"params/{name}/bias"))
        if tensor is None or len(tensor.shape) != 1 or tensor.shape[0] < 2:
            raise UserError(
                f"{source} has no {theirs(f'params/{name}/bias')} [n]: it holds no Faster or Mask R-CNN with a pyramid"
            )
        return tensor.shape[0]

    return MaskRCNN(
        backbone,
        num_classes=length("box/logits") - 1,
        channels=length("proposals/conv"),
        head_width=length("box/fc1"),
        box_head=box_head,
        norm=theirs("params/pyramid/lateral2_norm/scale") in tensors,
        masks=theirs("params/mask/logits/bias") in tensors,
    )
