"""Exported files in PyTorch, transformers and onnxruntime, against a ResNet in PyTorch of our own."""

import json

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch_resnet import randomise

from benchmarks.step.torch_networks import TorchResNet
from univip_jax import load_encoder
from univip_jax.common.errors import UserError
from univip_jax.export import __main__ as command
from univip_jax.export import formats
from univip_jax.export.consumers import jax_outputs
from univip_jax.export.parity import SIZES, compare_outputs, photos
from univip_jax.models.resnet import DEPTHS
from univip_jax.weights.imported import import_weights
from univip_jax.weights.names import to_torch

MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])
WIDTH = 0.125


def save(net: torch.nn.Module, path):
    save_file(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def net() -> TorchResNet:
    return randomise(TorchResNet((2, 2, 2, 2), False, WIDTH))


@pytest.fixture(scope="module")
def run(net, tmp_path_factory):
    """A run's folder, such as training leaves, with the weights of `net`."""
    folder = tmp_path_factory.mktemp("run")
    import_weights(save(net, folder / "net.safetensors"), folder / "run", image_size=64)
    config = json.loads((folder / "run" / "config.json").read_text())
    del config["imported"]
    (folder / "run" / "config.json").write_text(json.dumps({**config, "task": "train"}))
    return folder / "run"


def export(run, kind, out):
    return command.export(run, kind, out, step=None, results=[], licence="other")


def stages_of(net: TorchResNet, images: np.ndarray) -> list[np.ndarray]:
    pixels = (torch.tensor(images) / 255 - MEAN) / STD
    with torch.inference_mode():
        return [stage.permute(0, 2, 3, 1).numpy() for stage in net.stages(pixels.permute(0, 3, 1, 2))]


def assert_close(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        assert np.abs(b).max() > 0.05
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backbone", DEPTHS)
def test_every_depth_computes_the_same_both_ways_at_every_stage(backbone, tmp_path):
    """PyTorch's file computes the same here; ours of it is PyTorch's bit for bit, and loads strictly."""
    net = randomise(TorchResNet(*DEPTHS[backbone], WIDTH))
    encoder = load_encoder(save(net, tmp_path / "theirs.safetensors"))
    assert encoder.backbone.variant == backbone
    images = photos(*SIZES[1])[:, :97, :161]  # odd, and cheap
    assert_close(jax_outputs(encoder)(images)[:4], stages_of(net, images))
    formats.write_torch_names(encoder, tmp_path / "ours.safetensors", {})
    again = TorchResNet(*DEPTHS[backbone], WIDTH)
    again.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    for name, value in net.state_dict().items():
        if "num_batches_tracked" not in name:
            assert torch.equal(again.state_dict()[name], value), name


def test_a_torchvision_file_loads_strictly_and_computes_the_same(run, net, tmp_path):
    out = tmp_path / "r18.safetensors"
    report = export(run, "torchvision", out)
    again = TorchResNet((2, 2, 2, 2), False, WIDTH)
    again.load_state_dict(load_file(out))
    assert_close(stages_of(again.eval(), photos(64, 80)), stages_of(net, photos(64, 80)))
    assert report["arrays_are_bit_identical"] and report["consumer"].keys() == {"transformers", "torch"}
    for of_size in report["differences"].values():
        assert of_size.keys() == {"res2", "res3", "res4", "res5", "features"}
        assert 0 <= max(of_size.values()) <= report["largest_difference"] <= 1e-4


def test_a_detectron2_file_computes_the_same_with_the_mean_of_its_configs(tmp_path):
    net = randomise(TorchResNet(*DEPTHS["resnet50"], WIDTH))
    report = export(save(net, tmp_path / "net.safetensors"), "detectron2", tmp_path / "r50.pkl")
    assert report["consumer"].keys() == {"transformers", "torch"} and not report["not_installed"]


def test_a_transformers_folder_is_loaded_by_its_own_classes(run, net, tmp_path):
    out = tmp_path / "r18"
    assert export(run, "transformers", out)["arrays_are_bit_identical"]
    model = transformers.AutoModel.from_pretrained(out).eval()
    assert isinstance(model, transformers.ResNetModel) and model.config.univip_jax["run"] == "run"
    processor = transformers.AutoImageProcessor.from_pretrained(out)
    assert processor(photos(200, 300)[0], return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)
    expected = stages_of(net, photos(97, 65))
    pixels = ((torch.tensor(photos(97, 65)) / 255 - MEAN) / STD).permute(0, 3, 1, 2)
    with torch.inference_mode():
        found = model(pixels, output_hidden_states=True).hidden_states[1:]
    assert_close([stage.permute(0, 2, 3, 1).numpy() for stage in found], expected)
    assert "from_pretrained" in (out / "README.md").read_text() and (tmp_path / "r18.parity.json").exists()


@pytest.mark.parametrize("kind", ["onnx", "stablehlo"])
def test_a_function_takes_any_batch_and_size(run, net, kind, tmp_path):
    out = tmp_path / f"r18.{kind}"
    export(run, kind, out)
    if kind == "onnx":
        session = onnxruntime.InferenceSession(out)

        def function(images):
            return session.run(["features"], {"images": images})[0]

        properties = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
        assert properties["run"] == "run" and properties["backbone"] == "resnet18"
    else:
        function = jax.export.deserialize(bytearray(out.read_bytes())).call
    for images in (photos(97, 65), photos(64, 64)[:1]):
        expected = stages_of(net, images)[-1].mean((1, 2))
        assert_close([np.asarray(function(images))], [expected])


@pytest.mark.parametrize(
    ("quiet", "leaf", "change", "difference"),
    [
        (1.0, "layer4.1.bn2.weight", lambda x: 1.01 * x, r"0\.\d+"),  # a hundredth of one norm in the last stage
        (1e-5, "layer4.0.bn2.weight", lambda x: 1.3 * x, r"0\.\d+"),  # a stage is measured by its own size
        (1.0, "layer4.1.bn2.bias", lambda x: np.full_like(x, np.inf), "(nan|inf)"),
    ],
)
def test_compare_outputs_refuses_a_file_that_computes_something_else(
    net, tmp_path, monkeypatch, quiet, leaf, change, difference
):
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for name in ("layer4.0.bn2", "layer4.1.bn2", "layer4.0.downsample.1"):
        state[f"{name}.weight"] *= quiet
        state[f"{name}.bias"] *= quiet
    save_file(state, tmp_path / "net.safetensors")
    encoder = load_encoder(tmp_path / "net.safetensors")
    changed = to_torch(encoder.variables)
    model = formats.consumers.transformers_model(encoder.backbone, changed | {leaf: change(changed[leaf])})
    outputs = formats.consumers.torch_outputs(model, 255 * MEAN.numpy(), 255 * STD.numpy())
    file_format = formats.FORMATS["torchvision"]._replace(outputs=lambda path: outputs)
    monkeypatch.setitem(formats.FORMATS, "torchvision", file_format)
    with pytest.raises(UserError, match=f"transformers's outputs from the file differ by {difference} .*nothing was"):
        compare_outputs(encoder, "torchvision", tmp_path / "net.safetensors")
