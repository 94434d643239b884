"""A detector from arrays under our own names, Detectron2's or torchvision's: the inverse of `detector_names`."""

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from univip_jax.common.errors import UserError, shorten
from univip_jax.models.mask_rcnn import MaskRCNN, init
from univip_jax.models.resnet import DEPTHS, ResNet
from univip_jax.weights.detector_names import DETECTRON2_NAMES, torchvision_name
from univip_jax.weights.names import (
    Rules,
    State,
    Tensors,
    from_detectron2,
    from_flat,
    from_torch,
    rename,
    require_sound,
    to_flat,
    values_of,
)


class Dialect(NamedTuple):
    """How a library names a detector's arrays and lays them out."""

    begin: str  # the backbone's first convolution, by which a file is known
    body: str  # how the names of the backbone begin, a regular expression
    backbone: Callable[[Tensors, str, str], tuple[ResNet, dict]]  # of tensors, source and stem
    name: Callable[[str, int], str]  # theirs for ours, such as `params/box/fc1/kernel`, with so many convs in `box`
    value: Callable[[str, np.ndarray], np.ndarray]  # ours for theirs, by our name without its collection
    old: Rules = ()  # how earlier versions named things, to the names of now


def _from_torch_layout(name: str, value: np.ndarray, bins: int = 7) -> np.ndarray:
    if name == "mask/deconv/kernel":
        return value.transpose(2, 3, 0, 1)
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
    lambda name, _: rename(name.partition("/")[2], DETECTRON2_NAMES),
    _from_torch_layout,
)
TORCHVISION = Dialect(
    "backbone.body.conv1.weight",
    _TORCHVISION_BODY,
    lambda tensors, *rest: from_torch(_below(_TORCHVISION_BODY, tensors), *rest),
    lambda name, convs: torchvision_name(name.partition("/")[2], convs),
    _from_torchvision,
    (  # before 0.13, when layers without a norm were no pairs
        (r"^(backbone\.fpn\.(inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\3"),
        (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
        *((rf"^roi_heads\.mask_head\.mask_fcn{n + 1}\.", f"roi_heads.mask_head.{n}.0.") for n in range(4)),
    ),
)
DIALECTS = (OURS, DETECTRON2, TORCHVISION)
# An unknown name that begins so is a part of another architecture; but for counters and constants.
_INSIDE = re.compile(r"(params/|batch_stats/|backbone\.|proposal_generator\.|rpn\.|roi_heads\.)")
_UNUSED = re.compile(r".*(num_batches_tracked|anchor_generator\.cell_anchors\.\d+)$")


def from_names(
    tensors: Tensors, dialect: Dialect, source: str, *, stem: str = "small", stride_in_1x1: bool = False
) -> tuple[MaskRCNN, State]:
    """The network, and its variables by our names, `params/box/fc1/kernel`; half precision becomes float32.

    `stem` is that of a 3x3 convolution. No weight shows where the stride of a bottleneck is.

    Raises UserError: `source` lacks an array of a detector, or has one too many, of another shape, or with values that
    are not finite.
    """
    backbone, variables = dialect.backbone(tensors, source, stem)
    convs = 4 if dialect.name("params/box/conv1/kernel", 4) in tensors else 0

    def theirs(name: str) -> str:
        return dialect.name(name, convs)

    backbone = backbone.clone(stride_in_1x1=stride_in_1x1 and DEPTHS[backbone.variant][1])
    net = _recognise(tensors, theirs, backbone, "4conv1fc" if convs else "2fc", source)
    shapes = _shapes(net)
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
        try:
            value = dialect.value(ours.partition("/")[2], value)
        except ValueError:  # it has other axes, or no multiple of what a region has
            value = np.empty(0)
        if value.shape != shapes[ours].shape:
            raise UserError(f"{what} {name} is {list(tensors[name].shape)}: another architecture")
        flat[ours] = np.ascontiguousarray(value, np.float32)
    return net, flat


@lru_cache(4)
def _shapes(net: MaskRCNN) -> dict[str, jax.ShapeDtypeStruct]:
    return flatten_dict(jax.eval_shape(partial(init, net), jax.random.key(0)), sep="/")


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
