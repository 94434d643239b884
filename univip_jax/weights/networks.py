"""Finds the ResNets in a file by names and shapes, whatever their prefix, and chooses one."""

import re
import shlex
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from univip_jax.common.errors import UserError, shorten
from univip_jax.weights.names import (
    FROM_DETECTRON2,
    FROM_TRANSFORMERS,
    INSIDE,
    Rules,
    Tensor,
    Tensors,
    rename,
    values_of,
)

# How a dialect spells the stem's convolution, and how the other names become torchvision's.
_DIALECTS: tuple[tuple[str, Rules], ...] = (
    ("conv1", ((r"\.shortcut\.", ".downsample."),)),  # torchvision, timm and most others; lightly's ResNets for CIFAR
    ("stem.conv1", FROM_DETECTRON2),
    ("embedder.embedder.convolution", FROM_TRANSFORMERS),
)
_NUMBERED = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")  # a Sequential's children with parameters
# Of several networks these words name the one that is meant to be used: an average first, then the trained one.
# MMEngine swaps both before it saves, so that its `ema_state_dict` holds the trained one, others' the average: asked.
_EMA = r"(^|[._])ema(?!_state_dict)([._]|$)"
_WANTED = (r"teacher", _EMA, r"online|encoder_q|base_encoder|student")
_COPIES = re.compile(rf"momentum|target|teacher|encoder_k|{_EMA}")
_OTHERS = {  # by a name that no plain ResNet has
    r"relative_position_bias": "a Swin transformer",
    r"(cls|class)_token|patch_embed\.|vit\.|encoder\.layers?\.\d+\.(self_)?attention": "a vision transformer",
    r"layer_scale|dwconv\.|downsample_layers\.\d|stages\.\d+\.blocks\.\d+\.conv_dw": "a ConvNeXt",
    r"denseblock\d": "a DenseNet",
    r"conv_dw\.|conv_pw|_depthwise_conv\.|features\.\d+\.(conv|\d+\.block)\.": "a MobileNet or EfficientNet",
    r"trunk_output\.": "a RegNet",
    r"inception|Mixed_\d": "an Inception network",
    r"root\.conv\.|block1\.unit01": "a BiT ResNet (v2)",
    r"(^|\.)conv1\.0\.weight": "a ResNet-D, with three convolutions in its stem",
    r"(^|\.)features\.\d+\.(weight|\d+\.weight)": "a VGG or AlexNet",
}


class Network(NamedTuple):
    """A ResNet of a file: its prefix, tensors under torchvision's names, heads included, and why it is not plain."""

    prefix: str
    state: Tensors
    doubt: str = ""


def find_networks(tensors: Tensors) -> list[Network]:
    """Every ResNet: a convolution of three channels that begins one, with a first block beside it."""
    stems = [name for name, value in tensors.items() if name.endswith(".weight") and _is_stem(value.shape)]
    found = [network for name in stems if (network := _around(name.removesuffix(".weight"), tensors))]
    return list({network.prefix: network for network in found}.values())


def _is_stem(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[1:] in ((3, 7, 7), (3, 3, 3))


def _around(stem: str, tensors: Tensors) -> Network | None:
    """The network whose first convolution this is, if it is a ResNet in one of the dialects."""
    for spelling, rules in _DIALECTS:
        if stem == spelling or stem.endswith(f".{spelling}"):
            prefix = stem.removesuffix(spelling)
            state = {rename(name, rules): value for name, value in _below(prefix, tensors)}
            if "layer1.0.conv1.weight" in state:
                return Network(prefix, state)
    prefix, first = stem[: stem.rfind(".") + 1], stem.rpartition(".")[2]
    if not first.isdecimal():
        return None
    below = [(name.split(".", 1), value) for name, value in _below(prefix, tensors)]
    children = sorted({int(child) for (child, *_), _ in below if child.isdecimal()})
    places = {str(child): name for child, name in zip(children, _NUMBERED, strict=False)}  # what comes later is a head
    state = {f"{places[name[0]]}.{name[1]}": value for name, value in below if name[0] in places and len(name) == 2}
    state = {rename(name, _DIALECTS[0][1]): value for name, value in state.items()}
    is_resnet = places.get(first) == "conv1" and {"bn1.running_mean", "layer4.0.conv1.weight"} <= state.keys()
    if not is_resnet:
        return None
    has_pool = children[2] - children[1] == 3 or tensors[f"{stem}.weight"].shape[2] == 3  # ReLU and pool have numbers
    return Network(
        prefix, state, "" if has_pool else f"{prefix}{children[2]} is the first stage: no max pool before it"
    )


def _below(prefix: str, tensors: Tensors) -> Iterable[tuple[str, Tensor | np.ndarray]]:
    return ((name.removeprefix(prefix), value) for name, value in tensors.items() if name.startswith(prefix))


def choose_network(tensors: Tensors, prefix: str | None, source: str) -> tuple[Network, str]:
    """The only ResNet, the one under `prefix`, or the teacher, average or online one; and a line where others are left.

    Raises UserError where there is none, or where several are as good.
    """
    networks = find_networks(tensors)
    if not networks:
        raise UserError(f"{source} holds no ResNet{_what_else(tensors)}")
    wanted = networks if prefix is None else _under(prefix, networks)
    if not wanted:
        raise UserError(f"{source} has no ResNet under --prefix={shlex.quote(prefix or '')}; it has {_flags(networks)}")
    for words in _WANTED:
        wanted = [network for network in wanted if re.search(words, network.prefix)] or wanted
    if len(wanted) > 1:
        wanted = [network for network in wanted if not _COPIES.search(network.prefix)] or wanted
    different = [network for n, network in enumerate(wanted) if not any(_is_equal(network, w) for w in wanted[:n])]
    if len(different) > 1:
        raise UserError(
            f"{source} holds {len(different)} networks: choose by {_flags(different)} of python -m univip_jax.weights"
        )
    chosen = different[0]
    if chosen.doubt:
        raise UserError(f"{source}: {chosen.doubt}, so the network is no plain ResNet and would compute other features")
    others = [network for network in networks if network is not chosen]
    if not others or (prefix is not None and len(_under(prefix, networks)) == 1):
        return chosen, ""
    return chosen, f"took the ResNet under {_flags([chosen])}, there is also {_flags(others)}"


def _under(prefix: str, networks: list[Network]) -> list[Network]:
    exact = [network for network in networks if network.prefix in (prefix, f"{prefix}.")]
    return exact or [network for network in networks if network.prefix.startswith(prefix)]


def _flags(networks: list[Network]) -> str:
    return " or ".join(f"--prefix={shlex.quote(network.prefix) if network.prefix else ''}" for network in networks)


def _is_equal(one: Network, other: Network) -> bool:
    """Whether their backbones hold the same values: some wrappers keep one network under two names."""
    first, second = ({name: value for name, value in net.state.items() if INSIDE.match(name)} for net in (one, other))
    if {name: tuple(value.shape) for name, value in first.items()} != {n: tuple(v.shape) for n, v in second.items()}:
        return False
    return all(np.array_equal(values_of(value), values_of(second[name])) for name, value in first.items())


def _what_else(tensors: Tensors) -> str:
    """What the file holds instead, for a message."""
    for pattern, what in _OTHERS.items():
        if example := next((name for name in tensors if re.search(pattern, name)), None):
            return f": {example} is of {what}; only plain ResNets are read"
    for name, value in tensors.items():
        if re.search(r"(^|\.)conv1\.weight$", name) and len(value.shape) == 4 and "layer" not in name:
            return (
                f": {name} is {list(value.shape)}, which must be [n, 3, 7, 7] or [n, 3, 3, 3] beside layer1 to layer4"
            )
    return f", but {shorten(sorted(tensors))}"
