"""Detectron2's names against a list by hand, torchvision's counts and Detectron2's rule of matching.

Sources: detectron2/modeling/backbone/resnet.py, detectron2/checkpoint/c2_model_loading.py.
"""

import jax
import numpy as np
import pytest

from tests.weights.random_weights import SMALL, variables_of
from univip_jax.common.errors import UserError
from univip_jax.models.resnet import ResNet
from univip_jax.weights.names import from_detectron2, from_torch, shapes_of, to_detectron2, to_torch

# By MoCo's convert-pretrain-to-detectron2.py, followed by hand.
NAMES = {
    "conv1.weight": "stem.conv1.weight",
    "bn1.weight": "stem.conv1.norm.weight",
    "bn1.running_mean": "stem.conv1.norm.running_mean",
    "layer1.0.conv1.weight": "res2.0.conv1.weight",
    "layer1.0.bn1.weight": "res2.0.conv1.norm.weight",
    "layer1.0.downsample.0.weight": "res2.0.shortcut.weight",
    "layer1.0.downsample.1.running_var": "res2.0.shortcut.norm.running_var",
    "layer2.3.bn2.bias": "res3.3.conv2.norm.bias",
    "layer3.22.conv3.weight": "res4.22.conv3.weight",
    "layer4.2.bn3.num_batches_tracked": "res5.2.conv3.norm.num_batches_tracked",
}


def backbone(name: str) -> dict[str, np.ndarray]:
    """Zeros of a backbone of width 1 under torchvision's names."""
    shapes = shapes_of(ResNet(name))
    return to_torch(jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes))


def test_detectron2_names_by_hand_and_back():
    arrays = {name: np.full(2, i) for i, name in enumerate(NAMES)}
    renamed = to_detectron2(arrays)
    assert list(renamed) == list(NAMES.values())
    assert all(renamed[theirs] is arrays[ours] for ours, theirs in NAMES.items())
    back = from_detectron2(renamed)
    assert list(back) == list(arrays)
    assert all(back[name] is arrays[name] for name in arrays)


@pytest.mark.parametrize(
    ("depth", "convs", "shortcuts"), [(18, 17, 3), (34, 33, 3), (50, 49, 4), (101, 100, 4), (152, 151, 4)]
)
def test_to_detectron2_names_every_array_of_every_depth(depth, convs, shortcuts):
    """A convolution has one array and its batch norm four; ResNet-n has n - 1 convolutions beside the shortcuts."""
    ours = backbone(f"resnet{depth}")
    theirs = to_detectron2(ours)
    assert len(theirs) == len(ours) == 5 * (convs + shortcuts)
    assert sum(".shortcut." in name for name in theirs) == 5 * shortcuts
    assert list(from_detectron2(theirs)) == list(ours)


def test_to_detectron2_of_depth_50_has_the_known_size():
    """25,557,032 parameters of torchvision's resnet50, less 2,049,000 of its classifier."""
    state = to_detectron2(backbone("resnet50"))
    assert sum(array.size for name, array in state.items() if "running" not in name) == 25557032 - 2049000
    assert state["res3.0.shortcut.weight"].shape == (512, 256, 1, 1)
    assert state["res5.2.conv2.weight"].shape == (512, 512, 3, 3)


@pytest.mark.parametrize("name", ["res6.0.conv1.weight", "stem.conv2.weight", "res2.0.conv4.norm.bias"])
def test_from_torch_refuses_an_unknown_name_of_detectron2(name):
    state = to_detectron2(to_torch(variables_of(SMALL))) | {name: np.zeros(1)}
    with pytest.raises(UserError, match=r"file looks like resnet18 .*, but also holds "):
        from_torch(from_detectron2(state), "file")


def test_from_detectron2_takes_no_names_of_torchvision():
    """Detectron2 would match none of them and train from scratch."""
    assert from_detectron2(to_torch(variables_of(SMALL))) == {}


def test_each_array_matches_one_parameter_of_detectron2():
    """Detectron2 matches by the end of a name: no name of ours may end another one, or that of a new layer."""
    names = list(to_detectron2(backbone("resnet50")))
    new = ["fpn_lateral2.norm.weight", "box_head.conv1.weight", "box_head.conv1.norm.bias", "mask_fcn1.norm.weight"]
    model = [f"backbone.bottom_up.{name}" for name in names] + [f"roi_heads.{name}" for name in new]
    ends = [".".join(parts[i:]) for parts in (name.split(".") for name in model) for i in range(len(parts))]
    assert [ends.count(name) for name in names] == [1] * len(names)
