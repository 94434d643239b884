"""Names and shapes against a list by hand, torchvision's counts and Detectron2's rule of matching.

Sources: detectron2/modeling/backbone/resnet.py, detectron2/checkpoint/c2_model_loading.py.
"""

import re

import numpy as np
import pytest

from univip_jax.common.errors import UserError
from univip_jax.weights.detectron2 import backbone_shapes, from_detectron2, to_detectron2

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


def test_names_by_hand_and_back():
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
def test_every_depth_has_its_arrays(depth, convs, shortcuts):
    """A convolution has one array and its batch norm four; ResNet-n has n - 1 convolutions beside the shortcuts."""
    shapes = backbone_shapes(depth)
    names = dict(zip(from_detectron2(shapes), shapes, strict=True))
    assert len(names) == len(set(names.values())) == 5 * (convs + shortcuts)
    assert sum("downsample.0" in name for name in names) == shortcuts
    assert to_detectron2(dict.fromkeys(names)) == dict.fromkeys(names.values())


def test_the_backbone_of_depth_50_has_the_known_size():
    """25,557,032 parameters of torchvision's resnet50, less 2,049,000 of its classifier."""
    shapes = backbone_shapes(50)
    assert sum(np.prod(s) for name, s in shapes.items() if "running" not in name) == 25557032 - 2049000
    assert shapes["res3.0.shortcut.weight"] == (512, 256, 1, 1)
    assert shapes["res5.2.conv2.weight"] == (512, 512, 3, 3)


@pytest.mark.parametrize(
    "name", ["fc.weight", "layer5.0.conv1.weight", "layer1.0.conv4.weight", "conv2.weight", "res2"]
)
def test_an_unknown_name_is_refused(name):
    with pytest.raises(UserError, match=re.escape(repr(name))):
        to_detectron2({name: 0})


@pytest.mark.parametrize("name", ["linear.weight", "res6.0.conv1.weight", "stem.conv2.weight", "layer1.0.conv1.weight"])
def test_an_unknown_name_is_refused_on_the_way_back(name):
    with pytest.raises(UserError, match=re.escape(repr(name))):
        from_detectron2({name: 0})


def test_every_array_finds_one_parameter():
    """Detectron2 matches by the end of a name: none of ours may end another's, nor that of a new layer."""
    names = list(backbone_shapes(50))
    new = ["fpn_lateral2.norm.weight", "box_head.conv1.weight", "box_head.conv1.norm.bias", "mask_fcn1.norm.weight"]
    model = [f"backbone.bottom_up.{name}" for name in names] + [f"roi_heads.{name}" for name in new]
    ends = [".".join(parts[i:]) for parts in (name.split(".") for name in model) for i in range(len(parts))]
    assert [ends.count(name) for name in names] == [1] * len(names)
