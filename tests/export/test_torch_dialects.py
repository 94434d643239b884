"""Checkpoints as other projects write them, each read back value by value, and the table of them in docs/export.md."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch_resnet import randomise

from benchmarks.step.torch_networks import TorchResNet
from univip_jax import load_encoder
from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.common.errors import UserError
from univip_jax.weights.files import read_backbone
from univip_jax.weights.imported import import_weights
from univip_jax.weights.names import to_torch

NET, OTHER, CIFAR = (
    randomise(TorchResNet((1, 1, 1, 1), False, 0.125, stem), seed)
    for seed, stem in enumerate(("imagenet", "imagenet", "cifar"))
)
_SHORTCUT = {r"\.downsample\.": ".shortcut."}
_CHILDREN = dict(zip(("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), (0, 1, 4, 5, 6, 7), strict=True))
_WITHOUT_POOL = {"layer1": 3, "layer2": 4, "layer3": 5, "layer4": 6}
_CLOSE = dict(zip(_CHILDREN, range(6), strict=True))
_DETECTRON2 = {
    r"^bn1": "stem.conv1.norm", r"^conv1": "stem.conv1", r"\.bn(\d)": r".conv\1.norm",
    r"downsample\.0": "shortcut", r"downsample\.1": "shortcut.norm",
    "layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5",
}  # fmt: skip


def named(prefix: str, net: TorchResNet, rules: dict | None = None) -> dict[str, torch.Tensor]:
    """The net's tensors, renamed by regular expressions, under a prefix."""
    state = net.state_dict()
    for pattern, new in (rules or {}).items():
        state = {re.sub(pattern, str(new), name): value for name, value in state.items()}
    return {prefix + name: value for name, value in state.items()}


def numbered(prefix: str, net: TorchResNet, places: dict) -> dict[str, torch.Tensor]:
    return named(prefix, net, {f"^{name}(?=\\.)": place for name, place in places.items()})


def head(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}0.weight": torch.zeros(16, 64), f"{prefix}0.bias": torch.zeros(16)}


# By the rows of the table: the file's contents. A row names the stem's convolution and the flag, if it needs one.
CASES = {
    "torchvision, timm": named("", NET) | {"fc.weight": torch.zeros(9, 64), "fc.bias": torch.zeros(9)},
    "timm with an average": {"arch": "resnet10", "state_dict": named("", OTHER), "state_dict_ema": named("", NET)},
    "MoCo v2": {
        "epoch": 200,
        "state_dict": named("module.encoder_q.", NET) | named("module.encoder_k.", OTHER) | head("module.fc."),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(8, 3, 7, 7)}}, "param_groups": [{"lr": 0.03}]},
    },
    "MoCo v3": {"state_dict": named("module.base_encoder.", NET) | named("module.momentum_encoder.", OTHER)},
    "SwAV": named("module.", NET) | head("module.projection_head.") | {"module.prototypes.weight": torch.zeros(3, 16)},
    "DINO": {"student": named("module.backbone.", OTHER), "teacher": named("backbone.", NET) | head("head.mlp.")},
    "Barlow Twins": {"epoch": 1, "model": named("module.backbone.", NET) | head("module.projector.")},
    "VISSL": {"classy_state_dict": {"base_model": {"model": {"trunk": named("_feature_blocks.", NET), "heads": {}}}}},
    "OpenSelfSup, ORL": {"state_dict": named("online_net.0.", NET) | named("target_net.0.", OTHER)},
    "MMSelfSup": {"meta": {"epoch": 800}, "state_dict": named("backbone.", NET) | head("neck.fc")},
    "PixPro": {"model": named("module.encoder.", NET) | named("module.encoder_k.", OTHER)},
    "solo-learn": {"state_dict": named("backbone.", NET) | named("momentum_backbone.", OTHER)},
    "lightly": numbered("backbone.", NET, _CHILDREN) | head("projection_head.layers.")
    | numbered("backbone_momentum.", OTHER, _CHILDREN),
    "lightly's network for CIFAR": numbered("backbone.", CIFAR, _CLOSE | _SHORTCUT),
    "SimCLR for CIFAR": numbered("f.", CIFAR, _CHILDREN | _WITHOUT_POOL) | head("g."),
    "SupContrast": {"model": named("encoder.", CIFAR, _SHORTCUT) | head("head.")},
    "PyTorch Lightning": {"epoch": 3, "state_dict": numbered("backbone.", NET, _CHILDREN) | head("head.")},
    "BYOL-PyTorch": named("net.", NET) | named("online_encoder.net.", NET) | named("target_encoder.net.", OTHER),
    "fastai": numbered("0.", NET, _CHILDREN) | head("1."),
    "torch.compile": named("_orig_mod.", NET),
    "Detectron2 (.pth)": {"model": named("backbone.bottom_up.", NET, _DETECTRON2)},
    "a module, torch.save(net)": torch.nn.Sequential(NET, torch.nn.Linear(64, 4)),
}  # fmt: skip


def rows() -> dict[str, tuple[str, str]]:
    """The table's rows: the stem's convolution, and the flag."""
    text = (Path(__file__).parents[2] / "docs/export.md").read_text().split("| checkpoint |")[1].split("\n\n")[0]
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    return {name: (stem, flag) for name, stem, flag in cells}


def assert_values(variables: dict, net: TorchResNet) -> None:
    found, expected = to_torch(variables), net.state_dict()
    assert len(found) == sum("num_batches" not in name for name in expected)
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name].numpy(), err_msg=name)


def test_the_table_names_every_case():
    assert list(rows()) == list(CASES)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("name", CASES)
def test_every_row_of_the_table_is_read(name, legacy, tmp_path):
    stem, flag = rows()[name]
    torch.save(CASES[name], tmp_path / "file", _use_new_zipfile_serialization=not legacy)
    backbone = read_backbone(tmp_path / "file", stem=flag.removeprefix("--stem=") or None)
    assert_values(backbone.variables, CIFAR if flag else NET)
    if backbone.note:  # it names what was taken
        assert f"took the ResNet under --prefix={re.split(r'(?:conv1|stem|0)[.]', stem)[0]}" in backbone.note
    if flag:
        with pytest.raises(
            UserError, match=r"has a 3x3 stem, and no weight shows its stride: .*--stem=cifar .*--stem="
        ):
            read_backbone(tmp_path / "file")


def pixels(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((images / 255 - IMAGENET_MEAN) / IMAGENET_STD).float().permute(0, 3, 1, 2)


@pytest.mark.parametrize("stem", ["cifar", "small"])
def test_a_stem_of_3x3_keeps_its_stride_from_the_file_to_the_features(stem, tmp_path):
    """Against PyTorch's network of that stride; the weights are the same, so the wrong stride would be silent."""
    net = TorchResNet((1, 1, 1, 1), False, 0.125, stem).eval()
    net.load_state_dict(CIFAR.state_dict())
    torch.save(named("encoder.", net), tmp_path / "net.pt")
    told = import_weights(tmp_path / "net.pt", tmp_path / "run", stem=stem)
    assert told.endswith(f"evaluated at {32 if stem == 'cifar' else 224} px")
    encoder, images = (
        load_encoder(tmp_path / "run"),
        np.random.default_rng(0).integers(0, 256, (2, 33, 40, 3), np.uint8),
    )
    with torch.no_grad():
        expected = net(pixels(images)).numpy()
    np.testing.assert_allclose(encoder(images), expected, atol=1e-4 * np.abs(expected).max())


def test_a_stem_of_7x7_takes_no_flag(tmp_path):
    torch.save(NET.state_dict(), tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"--stem=cifar: .*net\.pt has a 7x7 stem, .*leave --stem out"):
        read_backbone(tmp_path / "net.pt", stem="cifar")


def test_the_library_transformers_is_read_as_it_computes(tmp_path):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], layer_type="basic"
    )
    net = randomise(transformers.ResNetForImageClassification(config))
    net.save_pretrained(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, 33, 40, 3), np.uint8)
    with torch.no_grad():
        expected = net.resnet(pixels(images)).pooler_output[:, :, 0, 0].numpy()
    found = load_encoder(tmp_path / "model.safetensors")(images)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_torchscript_is_read(tmp_path):
    torch.jit.save(torch.jit.trace(NET, torch.zeros(1, 3, 32, 32)), tmp_path / "net.ts")
    assert_values(read_backbone(tmp_path / "net.ts").variables, NET)


@pytest.mark.parametrize("given", ["student", "student.", "student.module.backbone", "student.module.backbone."])
def test_prefix_chooses_by_the_beginning_of_a_name(given, tmp_path):
    torch.save(CASES["DINO"], tmp_path / "dino.pth")
    backbone = read_backbone(tmp_path / "dino.pth", given)
    assert_values(backbone.variables, OTHER)
    assert not backbone.note


def test_the_networks_that_were_not_taken_are_told(tmp_path, capsys):
    torch.save(CASES["DINO"], tmp_path / "dino.pth")
    told = r"took the ResNet under --prefix=teacher\.backbone\., there is also --prefix=student\.module\.backbone\."
    assert re.search(told, import_weights(tmp_path / "dino.pth", tmp_path / "run"))
    assert_values(load_encoder(tmp_path / "dino.pth").variables, NET)
    assert re.search(told, capsys.readouterr().err)


def test_a_prefix_of_several_networks_tells_the_others(tmp_path):
    both = {"m": {"teacher": named("", NET), "student": named("", OTHER)}}
    torch.save(both, tmp_path / "both.pth")
    backbone = read_backbone(tmp_path / "both.pth", "m.")
    assert_values(backbone.variables, NET)
    assert "there is also --prefix=m.student." in backbone.note


def test_mmengines_average_is_asked_for(tmp_path):
    torch.save({"state_dict": named("", NET), "ema_state_dict": named("module.", OTHER)}, tmp_path / "mm.pth")
    with pytest.raises(UserError, match=r"choose by --prefix=state_dict\. or --prefix=ema_state_dict\.module\."):
        read_backbone(tmp_path / "mm.pth")


@pytest.mark.parametrize("beside", ["val/loss", "metrics/best.score"])
def test_a_slash_in_a_name_beside_the_weights_does_not_matter(beside, tmp_path):
    torch.save({"state_dict": named("", NET), beside: torch.zeros(1)}, tmp_path / "net.ckpt")
    assert_values(read_backbone(tmp_path / "net.ckpt").variables, NET)


@pytest.mark.parametrize(
    "name",
    ["ca.fc1.weight", "attention2.query.weight", "NL_2.0.theta.weight", "maxpool.1.filt", "normalize.mean", "std"],
)
def test_a_layer_between_stem_and_features_is_refused(name, tmp_path):
    torch.save(named("", NET) | {name: torch.zeros(3)}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=f"also holds {re.escape(name)}: another architecture"):
        read_backbone(tmp_path / "net.pth")


def test_equal_networks_are_one_and_different_ones_are_asked_for(tmp_path):
    torch.save({"a": named("", NET), "b": named("x.", NET)}, tmp_path / "same.pth")
    assert_values(read_backbone(tmp_path / "same.pth").variables, NET)
    torch.save(named("", NET) | named("it's.", OTHER), tmp_path / "two.pth")
    choices = r"""holds 2 networks: choose by --prefix= or --prefix='it'"'"'s\.' of python -m univip_jax\.weights"""
    with pytest.raises(UserError, match=choices):
        read_backbone(tmp_path / "two.pth")
    assert_values(read_backbone(tmp_path / "two.pth", "").variables, NET)
    with pytest.raises(UserError, match=r"has no ResNet under --prefix=nets\.; it has --prefix= or --prefix='it"):
        read_backbone(tmp_path / "two.pth", "nets.")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ({"cls_token": (1, 1, 8), "patch_embed.proj.weight": (8, 3, 16, 16)}, "cls_token is of a vision transformer"),
        ({"downsample_layers.0.0.weight": (8, 3, 4, 4), "stages.0.0.dwconv.weight": (8, 1, 7, 7)}, "of a ConvNeXt"),
        ({"features.0.weight": (8, 3, 3, 3), "features.3.weight": (8, 8, 3, 3)}, r"features\.0\.weight is of a VGG"),
        ({"a.conv1.0.weight": (8, 3, 3, 3), "a.layer1.0.conv1.weight": (8, 8, 3, 3)}, "is of a ResNet-D"),
        ({"conv1.weight": (8, 1, 7, 7), "layer1.0.conv1.weight": (8, 8, 3, 3)}, r"conv1\.weight is \[8, 1, 7, 7\]"),
        (numbered("f.", NET, _CHILDREN | _WITHOUT_POOL), r"f\.3 is the first stage: no max pool before it, so the"),
        ({"net.0.weight": (3, 4)}, r"holds no ResNet, but net\.0\.weight"),
    ],
)
def test_a_file_without_a_resnet_says_what_it_holds(names, what, tmp_path):
    state = {name: torch.zeros(shape) if isinstance(shape, tuple) else shape for name, shape in names.items()}
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(UserError, match=what) as error:
        read_backbone(tmp_path / "net.pth")
    assert "\n" not in str(error.value)
