"""A ResNet in Detectron2: its names and shapes, and which of a file's arrays would load.

Detectron2 gives an array to the parameter whose name ends in the array's name, and passes over what fits nothing.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from univip_jax.common.errors import UserError

# Depths that Detectron2 builds: blocks of res2 to res5, and whether they are bottlenecks.
BLOCKS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
_SHOWN = 4  # names in one line
_NORM = ("weight", "bias", "running_mean", "running_var")
# torchvision's layers of a block, and Detectron2's.
_LAYERS = {"downsample.0": "shortcut", "downsample.1": "shortcut.norm"}
_LAYERS |= {f"conv{i}": f"conv{i}" for i in (1, 2, 3)} | {f"bn{i}": f"conv{i}.norm" for i in (1, 2, 3)}
_BLOCK = {
    f"{ours}.{leaf}": f"{theirs}.{leaf}"
    for ours, theirs in _LAYERS.items()
    for leaf in ((*_NORM, "num_batches_tracked") if "norm" in theirs else ("weight",))
}
_BLOCK_BACK = {theirs: ours for ours, theirs in _BLOCK.items()}
_STEM = {f"stem.{theirs}": ours for ours, theirs in _BLOCK.items() if ours.startswith(("conv1.", "bn1."))}
_STEM_BACK = {ours: theirs for theirs, ours in _STEM.items()}


def _theirs(name: str) -> str:
    """torchvision's name to Detectron2's."""
    match = re.fullmatch(r"layer([1-4])\.([0-9]+)\.(.+)", name)
    if match and match[3] in _BLOCK:
        return f"res{int(match[1]) + 1}.{match[2]}.{_BLOCK[match[3]]}"
    if name not in _STEM_BACK:
        raise UserError(f"{name!r} is no name of a torchvision ResNet's backbone; leave out heads such as fc.weight")
    return _STEM_BACK[name]


def _ours(name: str) -> str:
    """Detectron2's name to torchvision's."""
    match = re.fullmatch(r"res([2-5])\.([0-9]+)\.(.+)", name)
    if match and match[3] in _BLOCK_BACK:
        return f"layer{int(match[1]) - 1}.{match[2]}.{_BLOCK_BACK[match[3]]}"
    if name not in _STEM:
        raise UserError(f"{name!r} is no name of a Detectron2 ResNet; names look like res2.0.conv1.norm.weight")
    return _STEM[name]


def to_detectron2(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A backbone's arrays under Detectron2's names instead of torchvision's; UserError for an unknown name."""
    return {_theirs(name): array for name, array in state.items()}


def from_detectron2(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `to_detectron2`."""
    return {_ours(name): array for name, array in state.items()}


def backbone_shapes(depth: int, stem: int = 64, res2: int | None = None, inner: int = 64) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the backbone that Detectron2 builds.

    Args:
      depth: a key of `BLOCKS`; UserError otherwise.
      stem, res2, inner: STEM_OUT_CHANNELS, RES2_OUT_CHANNELS, WIDTH_PER_GROUP; those of width 1 by default.
    """
    if depth not in BLOCKS:
        raise UserError(f"depth={depth!r}: Detectron2 builds ResNet-{', -'.join(map(str, BLOCKS))} and no other")
    blocks, bottleneck = BLOCKS[depth]
    if res2 is None:
        res2 = 256 if bottleneck else 64
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes.update({f"{name}.norm.{leaf}": shape[:1] for leaf in _NORM})

    add("stem.conv1", stem, 3, 7, 7)
    channels = stem
    for stage, count in enumerate(blocks):
        out, width = res2 * 2**stage, inner * 2**stage
        for index in range(count):
            name = f"res{stage + 2}.{index}"
            if channels != out:
                add(f"{name}.shortcut", out, channels, 1, 1)
            if bottleneck:
                add(f"{name}.conv1", width, channels, 1, 1)
                add(f"{name}.conv2", width, width, 3, 3)
                add(f"{name}.conv3", out, width, 1, 1)
            else:
                add(f"{name}.conv1", out, channels, 3, 3)
                add(f"{name}.conv2", out, out, 3, 3)
            channels = out
    return shapes


class Widths(NamedTuple):
    """MODEL.RESNETS.STEM_OUT_CHANNELS, RES2_OUT_CHANNELS and WIDTH_PER_GROUP."""

    stem: int
    res2: int
    inner: int


def depth_of(names: Collection[str]) -> int | None:
    """The depth, of those that Detectron2 builds, whose blocks these names have."""
    found = [set(re.findall(rf"^res{stage}\.([0-9]+)\.", "\n".join(names), re.MULTILINE)) for stage in (2, 3, 4, 5)]
    bottleneck = any(".conv3." in name for name in names)
    depths = [depth for depth, shape in BLOCKS.items() if shape == (tuple(map(len, found)), bottleneck)]
    return depths[0] if depths else None


def width_of(state: Mapping[str, np.ndarray]) -> float:
    """Times 64, the channels of the stem; UserError where there is none."""
    if "stem.conv1.weight" not in state:
        raise UserError("the weights hold no stem.conv1.weight: export them by --format=detectron2")
    return len(state["stem.conv1.weight"]) / 64


def widths_of(shapes: Mapping[str, tuple[int, ...]], widths: Widths) -> Widths:
    """The widths of a file's arrays; those of `widths` where the file does not tell."""
    last = "res2.0.conv3.weight" if "res2.0.conv3.weight" in shapes else "res2.0.conv2.weight"
    names = ("stem.conv1.weight", last, "res2.0.conv1.weight" if last.startswith("res2.0.conv3") else "")
    found = [shapes[name][0] if shapes.get(name) else old for name, old in zip(names, widths, strict=True)]
    return Widths(*found)


def misfits(
    depth: int, widths: Widths, names: Collection[str], shapes: Mapping[str, tuple[int, ...]]
) -> list[tuple[str, str, str, str]]:
    """What would not load of a file with these names and, where known, shapes: (names, wanted, reason, severity)."""
    expected = backbone_shapes(depth, *widths)
    other = {name for name in expected.keys() & shapes.keys() if shapes[name] != expected[name]}
    built = "the shape that Detectron2 builds" + (", a 7x7 stem" if "stem.conv1.weight" in other else "")
    kinds = (
        (expected.keys() - set(names), "in the file", "missing there, it would start from nothing", "error"),
        (
            set(names) - expected.keys(),
            "a name of this backbone",
            "it is in the file and would load nowhere",
            "warning",
        ),
        (other, built, "of another shape, it would start from nothing", "error"),
    )
    found = []
    for which, wanted, reason, severity in kinds:
        more = [f"and {len(which) - _SHOWN} more"] if len(which) > _SHOWN else []
        if which:
            found.append((", ".join(sorted(which)[:_SHOWN] + more), wanted, reason, severity))
    return found
