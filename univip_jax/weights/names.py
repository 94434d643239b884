"""A backbone's parameters under the names of torchvision and Detectron2, and back.

timm, MoCo, ORL, DenseCL and OpenSelfSup share torchvision's names: `conv1.weight`, `bn1.running_mean`,
`layer1.0.conv2.weight`, `layer1.0.downsample.0.weight`. Kernels are [out, in, h, w] there and [h, w, in, out] here.
Nothing else differs: our networks pad and stride as PyTorch does.
"""

import re
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from univip_jax.common.errors import UserError, shorten
from univip_jax.models.resnet import DEPTHS, ResNet

State = dict[str, np.ndarray]  # a PyTorch state dict, as arrays

_NORM = {
    "scale": ("params", "weight"),
    "bias": ("params", "bias"),
    "mean": ("batch_stats", "running_mean"),
    "var": ("batch_stats", "running_var"),
}
# An unknown name inside a backbone means another architecture; elsewhere it is a head.
_INSIDE = re.compile(r"(conv|bn|layer)\d")
_COUNTER = "num_batches_tracked"
_DETECTRON2 = re.compile(r"(stem\.conv1|res[2-5]\.\d+\.(conv[123]|shortcut))(\.norm)?\.\w+")
_DETECTRON2_HEADS = ("stem.fc.", "linear.")  # the converters of Detectron2 and MoCo leave the classifier in


@dataclass(frozen=True)
class Architecture:
    """The ResNet that a file's names and shapes describe: `model.backbone`, `model.width`, `model.stem`."""

    backbone: str
    width: float
    stem: str

    def make(self) -> ResNet:
        """The network, computing in float32."""
        return ResNet(self.backbone, self.width, self.stem)

    def shapes(self) -> dict:
        """The tree of its variables, as `jax.ShapeDtypeStruct`."""
        net = self.make()
        image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
        return jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), image)


def _torch_name(path: tuple[str, ...]) -> str:
    """('params', 'layer1_0', 'downsample_bn', 'scale') to 'layer1.0.downsample.1.weight'."""
    *modules, leaf = path[1:]
    name = ".".join(modules).replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")
    name = re.sub(r"^layer(\d+)_(\d+)", r"layer\1.\2", name)
    return f"{name}.{'weight' if leaf == 'kernel' else _NORM[leaf][1]}"


def _named_leaves(variables: dict) -> dict[str, Any]:
    """The leaves of a backbone's variables by PyTorch's names, sorted."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    named = {_torch_name(tuple(entry.key for entry in path)): leaf for path, leaf in leaves}
    return dict(sorted(named.items()))


def to_torch(variables: dict) -> State:
    """A backbone's variables under torchvision's names: kernels [out, in, h, w], the same float32 values."""
    return {
        name: np.ascontiguousarray(np.asarray(leaf).transpose(3, 2, 0, 1) if np.ndim(leaf) == 4 else np.asarray(leaf))
        for name, leaf in _named_leaves(variables).items()
    }


def from_torch(state: State, source: str) -> tuple[Architecture, dict]:
    """The architecture and the variables of a state dict under torchvision's names.

    Leaves out heads and batch counters; half-precision values become float32.

    Raises:
      UserError: names `source`, which holds no plain ResNet, or whose backbone lacks a parameter, has one too many, or
        has one of another shape.
    """
    architecture = recognise(state, source)
    shapes = architecture.shapes()
    expected = _named_leaves(shapes)
    what = f"{source} looks like {architecture.backbone} of width {architecture.width:g}, but"
    if missing := sorted(expected.keys() - state.keys()):
        raise UserError(f"{what} lacks {shorten(missing)}: give the file of a whole backbone")
    inside = {name for name in state if _INSIDE.match(name) and not name.endswith(_COUNTER)}
    if extra := sorted(inside - expected.keys()):
        raise UserError(
            f"{what} also holds {shorten(extra)}: another architecture, which would compute other features; only plain "
            f"ResNets are read ({', '.join(DEPTHS)})"
        )
    leaves = {}
    for name, like in expected.items():
        value = np.asarray(state[name])
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        if value.shape != like.shape:
            raise UserError(f"{what} {name} is {list(state[name].shape)}: another architecture (wide or grouped?)")
        if value.dtype.kind == "c":
            raise UserError(f"{source}: {name} holds complex numbers, which no ResNet has")
        if name.endswith("running_var") and (value < 0).any():
            raise UserError(f"{source}: {name} holds negative variances: the file is damaged")
        if not np.isfinite(value).all():
            raise UserError(f"{source}: {name} holds values that are not finite: it is damaged, or its run diverged")
        leaves[name] = np.ascontiguousarray(value, np.float32)
    named = jax.tree_util.tree_map_with_path(lambda path, _: leaves[_torch_name(tuple(e.key for e in path))], shapes)
    return architecture, named


def _detectron2_name(name: str) -> str:
    """torchvision's 'layer1.0.bn2.bias' to Detectron2's 'res2.0.conv2.norm.bias'."""
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    name = re.sub(r"^layer(\d)", lambda stage: f"res{int(stage[1]) + 1}", re.sub(r"^(conv|bn)", r"stem.\1", name))
    return re.sub(r"bn(\d)", r"conv\1.norm", name)


def to_detectron2(state: State) -> State:
    """A backbone's arrays under Detectron2's names instead of torchvision's."""
    return {_detectron2_name(name): array for name, array in state.items()}


def from_detectron2(state: State, source: str) -> State:
    """The inverse of `to_detectron2`, without classifiers; UserError names a name that no ResNet of Detectron2 has."""
    named: State = {}
    for name, array in state.items():
        if name.startswith(_DETECTRON2_HEADS):
            continue
        if not _DETECTRON2.fullmatch(name):
            raise UserError(
                f"{source}: {name!r} is no name of a Detectron2 ResNet, such as res2.0.conv1.norm.weight; save "
                "torchvision's names as .safetensors"
            )
        ours = re.sub(r"^res(\d)", lambda stage: f"layer{int(stage[1]) - 1}", name.removeprefix("stem."))
        ours = ours.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
        named[re.sub(r"conv(\d)\.norm", r"bn\1", ours)] = array
    return named


def to_flat(variables: dict) -> State:
    """A backbone's variables under our own names, such as `params/layer1_0/conv1/kernel`; the same values."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {"/".join(entry.key for entry in path): np.asarray(leaf) for path, leaf in leaves}


def from_flat(state: State, source: str) -> tuple[Architecture, dict]:
    """The inverse of `to_flat`; checks and raises as `from_torch` does."""
    named: State = {}
    for name, value in state.items():
        path = tuple(name.split("/"))
        kinds = {"kernel": "params"} | {leaf: kind for leaf, (kind, _) in _NORM.items()}
        if len(path) < 3 or kinds.get(path[-1]) != path[0]:
            raise UserError(f"{source} holds {name}, which no backbone of ours has")
        named[_torch_name(path)] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
    return from_torch(named, source)


def recognise(state: State, source: str) -> Architecture:
    """The ResNet with these names and shapes; UserError where there is none."""
    stem = state.get("conv1.weight")
    if stem is None or np.ndim(stem) != 4 or stem.shape[1] != 3 or not stem.size:
        raise UserError(
            f"{source} holds no ResNet: no conv1.weight [out, 3, h, w] among {shorten(sorted(state)) or 'no names'}"
        )
    stems = {7: "imagenet", 3: "small"}
    if stem.shape[2] != stem.shape[3] or stem.shape[2] not in stems:
        raise UserError(f"{source}: conv1.weight is {list(stem.shape)}; only a 7x7 stem, or our 3x3 one, is known")
    found = {match.groups() for name in state if (match := re.match(r"layer(\d+)\.(\d+)\.", name))}
    counts = tuple(len({block for s, block in found if s == str(stage)}) for stage in range(1, 5))
    bottleneck = any(re.match(r"layer\d+\.\d+\.conv3\.", name) for name in state)
    for name, (blocks, deep) in DEPTHS.items():
        if (blocks, deep) == (counts, bottleneck):
            return Architecture(name, stem.shape[0] / 64, stems[stem.shape[2]])
    kind = "bottlenecks" if bottleneck else "basic blocks"
    raise UserError(f"{source} has {list(counts)} {kind} in its stages; known are {', '.join(DEPTHS)}")
