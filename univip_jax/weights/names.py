"""A backbone's parameters under the names of torchvision, Detectron2 and transformers, and back.

timm, MoCo, ORL, DenseCL and OpenSelfSup share torchvision's names: `conv1.weight`, `bn1.running_mean`,
`layer1.0.conv2.weight`, `layer1.0.downsample.0.weight`. Kernels are [out, in, h, w] there and [h, w, in, out] here.
Nothing else differs: our networks pad and stride as PyTorch does.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from univip_jax.common.errors import UserError, shorten
from univip_jax.models.resnet import DEPTHS, ResNet

State = dict[str, np.ndarray]  # a PyTorch state dict, as arrays


class Tensor(NamedTuple):
    """An array of a file whose values are not read yet."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


Tensors = Mapping[str, Tensor | np.ndarray]
Rules = tuple[tuple[str, str], ...]  # regular expressions and their replacements, in order

_TORCH: Rules = (
    ("^(params|batch_stats)/", ""),
    (r"^layer(\d)_", r"layer\1."),
    ("downsample_conv", "downsample.0"),
    ("downsample_bn", "downsample.1"),
    ("/(kernel|scale)$", ".weight"),
    ("/(mean|var)$", r".running_\1"),
    ("/", "."),
)
_DETECTRON2: Rules = (
    ("^(conv|bn)", r"stem.\1"),
    *((f"^layer{stage}", f"res{stage + 1}") for stage in (1, 2, 3, 4)),
    (r"downsample\.0", "shortcut"),
    (r"downsample\.1", "shortcut.norm"),
    (r"bn(\d)", r"conv\1.norm"),
)
FROM_DETECTRON2: Rules = (
    (r"^stem\.", ""),
    *((f"^res{stage + 1}", f"layer{stage}") for stage in (1, 2, 3, 4)),
    (r"shortcut\.norm", "downsample.1"),
    ("shortcut", "downsample.0"),
    (r"conv(\d)\.norm", r"bn\1"),
)
_TRANSFORMERS: Rules = (
    *((rf"^layer{stage}\.", f"encoder.stages.{stage - 1}.layers.") for stage in (1, 2, 3, 4)),
    (r"downsample\.0", "shortcut.convolution"),
    (r"downsample\.1", "shortcut.normalization"),
    ("^(conv|bn)1", r"embedder.embedder.\1"),
    *((rf"\.(conv|bn){layer}\.", rf".layer.{layer - 1}.\1.") for layer in (1, 2, 3)),
    (r"\.conv\.", ".convolution."),
    (r"\.bn\.", ".normalization."),
)
FROM_TRANSFORMERS: Rules = (
    (r"^embedder\.embedder\.convolution", "conv1"),
    (r"^embedder\.embedder\.normalization", "bn1"),
    *((rf"^encoder\.stages\.{stage - 1}\.layers\.", f"layer{stage}.") for stage in (1, 2, 3, 4)),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    *((rf"\.layer\.{layer - 1}\.convolution", f".conv{layer}") for layer in (1, 2, 3)),
    *((rf"\.layer\.{layer - 1}\.normalization", f".bn{layer}") for layer in (1, 2, 3)),
)
# An unknown name inside a backbone means another architecture; elsewhere it is a head. What stands between the stem and
# the features is inside too: attention, a transformer of the input, its normalisation, a pool with weights.
INSIDE = re.compile(
    r"(conv|bn|layer|res)\d|(ca|sa|se|cbam|attn|attention|non_?local|nl|stn|normali[sz]er?|mean|std|gamma|maxpool|blur)"
    r"(\d|_|\.|$)",
    re.IGNORECASE,
)
_COUNTER = "num_batches_tracked"


def rename(name: str, rules: Rules) -> str:
    """Applies the rules to a parameter's name, one after the other."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def values_of(value: Tensor | np.ndarray) -> np.ndarray:
    """The array; of a tensor of a file, read now."""
    return value.read() if isinstance(value, Tensor) else np.asarray(value)


@lru_cache(8)
def shapes_of(net: ResNet) -> dict:
    """The tree of its variables, as `jax.ShapeDtypeStruct`."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    return jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), image)


def to_torch(variables: dict) -> State:
    """A backbone's variables under torchvision's names: kernels [out, in, h, w], the same float32 values."""
    return dict(sorted(_rename_flat(to_flat(variables)).items()))


def _rename_flat(state: State) -> State:
    """Our own names and layout to torchvision's."""
    return {
        rename(name, _TORCH): np.ascontiguousarray(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value)
        for name, value in state.items()
    }


def from_torch(state: Tensors, source: str, stem: str = "small") -> tuple[ResNet, dict]:
    """The network and the variables of a state dict under torchvision's names.

    Leaves out heads and batch counters; half-precision values become float32. `stem` is that of a 3x3 convolution,
    whose stride no weight shows: `small` or `cifar`.

    Raises:
      UserError: names `source`, which holds no plain ResNet, or whose backbone lacks a parameter, has one too many, or
        has one of another shape.
    """
    net = recognise(state, source, stem)
    shapes = flatten_dict(shapes_of(net), sep="/")
    expected = {rename(name, _TORCH): name for name in shapes}
    what = f"{source} looks like {net.variant} of width {net.width:g}, but"
    if missing := sorted(expected.keys() - state.keys()):
        raise UserError(f"{what} lacks {shorten(missing)}: give the file of a whole backbone")
    inside = {name for name in state if INSIDE.match(name) and not name.endswith(_COUNTER)}
    if extra := sorted(inside - expected.keys()):
        raise UserError(
            f"{what} also holds {shorten(extra)}: another architecture, which would compute other features; only plain "
            f"ResNets are read ({', '.join(DEPTHS)})"
        )
    flat = {}
    for name, ours in expected.items():
        shape = tuple(state[name].shape)
        if (shape[2:] + shape[1::-1] if len(shape) == 4 else shape) != shapes[ours].shape:
            raise UserError(f"{what} {name} is {list(shape)}: another architecture (wide or grouped?)")
        value = values_of(state[name])
        require_sound(value, name, source)
        flat[ours] = np.ascontiguousarray(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value, np.float32)
    return net, unflatten_dict(flat, sep="/")


def require_sound(value: np.ndarray, name: str, source: str) -> None:
    """Raises UserError where an array holds what no parameter and no statistic can be."""
    is_bad = value.dtype.kind == "c" or not np.isfinite(value).all()
    if is_bad or (name.endswith(("running_var", "/var")) and (value < 0).any()):
        raise UserError(
            f"{source}: {name} holds values that are complex, not finite or negative variances: the file is "
            "damaged, or its run diverged"
        )


def to_detectron2(state: State) -> State:
    """A backbone's arrays under Detectron2's names instead of torchvision's."""
    return {rename(name, _DETECTRON2): array for name, array in state.items()}


def to_transformers(state: State) -> State:
    """A backbone's arrays under the names of transformers' ResNet instead of torchvision's."""
    return {rename(name, _TRANSFORMERS): array for name, array in state.items()}


def from_detectron2(state: Tensors) -> Tensors:
    """The inverse of `to_detectron2`; leaves out all but stem and stages, such as the classifier of a converter."""
    return {rename(name, FROM_DETECTRON2): array for name, array in state.items() if re.match(r"stem\.|res\d", name)}


def to_flat(variables: dict) -> State:
    """A backbone's variables under our own names, such as `params/layer1_0/conv1/kernel`; the same values."""
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(variables, sep="/").items()}


def from_flat(state: Tensors, source: str, stem: str = "small") -> tuple[ResNet, dict]:
    """The inverse of `to_flat`; checks and raises as `from_torch` does."""
    net, variables = from_torch(_rename_flat({name: values_of(state[name]) for name in state}), source, stem)
    if unknown := sorted(state.keys() - to_flat(variables).keys()):
        raise UserError(f"{source} holds {shorten(unknown)}, which no backbone of ours has")
    return net, variables


def recognise(state: Tensors, source: str, stem: str) -> ResNet:
    """The ResNet with these names and shapes, `stem` where its first convolution is 3x3; UserError for none."""
    stems = {(3, 7, 7): "imagenet", (3, 3, 3): stem}
    channels, *kernel = np.shape(state.get("conv1.weight")) or (0,)
    if tuple(kernel) not in stems or not channels:
        found = f"conv1.weight {[channels, *kernel]}" if kernel else shorten(sorted(state)) or "no names"
        raise UserError(f"{source} holds no ResNet: no conv1.weight [n, 3, 7, 7], or [n, 3, 3, 3], but {found}")
    found = {match.groups() for name in state if (match := re.match(r"layer(\d+)\.(\d+)\.", name))}
    counts = tuple(sum(s == str(stage) for s, _ in found) for stage in range(1, 5))
    bottleneck = any(re.match(r"layer\d+\.\d+\.conv3\.", name) for name in state)
    for name, depth in DEPTHS.items():
        if depth == (counts, bottleneck):
            return ResNet(name, channels / 64, stems[tuple(kernel)])
    kind = "bottlenecks" if bottleneck else "basic blocks"
    raise UserError(f"{source} has {list(counts)} {kind} in its stages; known are {', '.join(DEPTHS)}")
