"""Every format, written from a small network and read back by who loads it; what is refused leaves nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
import yaml
from safetensors import safe_open
from safetensors.numpy import save as numpy_save
from safetensors.torch import load_file, save_file
from torch_resnet import randomise

from benchmarks.step.torch_networks import TorchResNet
from univip_jax import load_encoder
from univip_jax.common.errors import UserError
from univip_jax.evaluate.results import write_results
from univip_jax.export import __main__ as command
from univip_jax.export import formats
from univip_jax.export.consumers import jax_outputs
from univip_jax.export.detectron2.check import check_config
from univip_jax.export.parity import SIZES, photos
from univip_jax.models.resnet import DEPTHS
from univip_jax.weights.__main__ import import_weights
from univip_jax.weights.encoder import Encoder
from univip_jax.weights.names import Architecture, to_flat, to_torch
from univip_jax.weights.pickle_file import read_pkl

IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225])
WIDTH = 0.125


def save(net: torch.nn.Module, path, prefix: str = ""):
    save_file({prefix + name: value for name, value in net.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def net() -> TorchResNet:
    return randomise(TorchResNet((2, 2, 2, 2), False, WIDTH))


@pytest.fixture(scope="module")
def run(net, tmp_path_factory):
    """A run's folder, such as the trainer leaves, that holds the weights of `net`."""
    folder = tmp_path_factory.mktemp("run")
    import_weights(save(net, folder / "net.safetensors"), folder / "run", image_size=64)
    config = json.loads((folder / "run" / "config.json").read_text())
    del config["imported"]
    (folder / "run" / "config.json").write_text(json.dumps({**config, "task": "train"}))  # as the trainer writes it
    return folder / "run"


def export(run, kind, out, **options):
    return command.export(run, kind, out, **{"step": None, "results": [], "licence": "other", **options})


def stages_of(net: TorchResNet, images: np.ndarray) -> list[np.ndarray]:
    pixels = (torch.tensor(images) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    with torch.inference_mode():
        return [stage.permute(0, 2, 3, 1).numpy() for stage in net.stages(pixels.permute(0, 3, 1, 2))]


def assert_close(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        assert np.abs(b).max() > 0.05
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)


def assert_same_bits(one: Encoder, other: Encoder) -> None:
    assert jax.tree.structure(one.variables) == jax.tree.structure(other.variables)
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)


@pytest.mark.parametrize("backbone", DEPTHS)
def test_every_depth_both_ways_at_every_stage(backbone, tmp_path):
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


def test_torchvisions_file_loads_strictly_and_says_what_it_is(run, net, tmp_path):
    out = tmp_path / "new" / "r18.safetensors"
    evaluation = tmp_path / "knn"
    write_results(evaluation, {"protocol": "knn", "top1": 12.5, "pretrained": str(run), "step": 0})
    report = export(run, "torchvision", out, results=[str(evaluation)], licence="cc-by-4.0")
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "r18.safetensors",
        "r18.safetensors.md",
        "r18.safetensors.parity.json",
    ]
    again = TorchResNet((2, 2, 2, 2), False, WIDTH)
    again.load_state_dict(load_file(out))
    assert_close(stages_of(again.eval(), photos(64, 80)), stages_of(net, photos(64, 80)))
    with safe_open(out, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["run"], metadata["step"], metadata["licence"]) == ("run", "0", "cc-by-4.0")
    assert len(metadata["config_sha256"]) == 64 and json.loads(metadata["results"])[0]["top1"] == 12.5
    assert json.loads(out.with_name("r18.safetensors.parity.json").read_text()) == report
    assert report["differences"].keys() == {"224x224", "225x301"}
    for of_size in report["differences"].values():
        assert of_size.keys() == {"res2", "res3", "res4", "res5", "features"}
        assert 0 <= max(of_size.values()) <= report["largest_difference"] <= 1e-4
    card = out.with_name("r18.safetensors.md").read_text()
    assert "license: cc-by-4.0" in card and "top1" in card and "run `run`, step `0`" in card


@pytest.mark.parametrize("kind", ["torchvision", "safetensors"])
def test_run_to_file_to_run_is_bit_identical(run, kind, tmp_path):
    out = tmp_path / f"r18{formats.OUT_SUFFIXES[kind]}"
    export(run, kind, out)
    import_weights(out, tmp_path / "again")
    assert_same_bits(load_encoder(run), load_encoder(tmp_path / "again"))


def test_transformers_folder_is_loaded_by_its_own_classes(run, net, tmp_path):
    out = tmp_path / "r18"
    export(run, "transformers", out)
    model = transformers.AutoModel.from_pretrained(out).eval()
    assert isinstance(model, transformers.ResNetModel) and model.config.univip_jax["run"] == "run"
    processor = transformers.AutoImageProcessor.from_pretrained(out)
    assert processor(photos(200, 300)[0], return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)
    expected = stages_of(net, photos(97, 65))
    pixels = ((torch.tensor(photos(97, 65)) / 255 - IMAGENET_MEAN) / IMAGENET_STD).permute(0, 3, 1, 2)
    with torch.inference_mode():
        found = model(pixels, output_hidden_states=True).hidden_states[1:]
    assert_close([stage.permute(0, 2, 3, 1).numpy() for stage in found], expected)
    assert "from_pretrained" in (out / "README.md").read_text() and (tmp_path / "r18.parity.json").exists()


@pytest.mark.parametrize("kind", ["onnx", "stablehlo"])
def test_functions_take_any_batch_and_size(run, net, kind, tmp_path):
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


def test_detectron2_gets_its_names_and_three_configs_that_check_clean(tmp_path):
    net = randomise(TorchResNet(*DEPTHS["resnet50"], WIDTH))
    out, net_file = tmp_path / "r50.pkl", save(net, tmp_path / "net.safetensors")
    export(net_file, "detectron2", out)
    assert_same_bits(load_encoder(out), load_encoder(net_file))
    state = read_pkl(out)
    value = net.state_dict()["layer2.0.downsample.1.running_var"].numpy()
    np.testing.assert_array_equal(state["res3.0.shortcut.norm.running_var"], value)
    configs = sorted((tmp_path / "r50_configs").iterdir())
    assert [path.name for path in configs] == [f"mask_rcnn_R_50_FPN_{schedule}.yaml" for schedule in ("1x", "2x", "6x")]
    for path in configs:
        assert yaml.safe_load(path.read_text())["MODEL"]["WEIGHTS"] == str(out.resolve())
        assert check_config(path, state) == []


def test_a_file_that_computes_something_else_is_not_written(run, tmp_path, monkeypatch):
    """One statistic of one norm in the last stage, off by a hundredth."""

    def write(encoder, out, metadata):
        state = {name: value.copy() for name, value in to_torch(encoder.variables).items()}
        state["layer4.1.bn2.running_var"] *= 1.01
        save_file({name: torch.tensor(value) for name, value in state.items()}, out)

    monkeypatch.setitem(formats.WRITERS, "torchvision", write)
    with pytest.raises(UserError, match=r"differs by 0\.00\d+ from this network, more than 0\.0001: nothing was"):
        export(run, "torchvision", tmp_path / "r18.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("leaf", "value"), [("bn2.bias", np.inf), ("bn2.running_var", -1.0)])
def test_what_is_not_finite_is_no_parity(run, tmp_path, monkeypatch, leaf, value):
    """Infinity, and the root of a negative variance, in the last block alone: what comes before agrees."""

    def write(encoder, out, metadata):
        state = {name: value.copy() for name, value in to_torch(encoder.variables).items()}
        state[f"layer4.1.{leaf}"][0] = value
        save_file({name: torch.tensor(value) for name, value in state.items()}, out)

    monkeypatch.setitem(formats.WRITERS, "torchvision", write)
    with pytest.raises(UserError, match="nothing was written"):
        export(run, "torchvision", tmp_path / "r18.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_network_that_diverged_is_not_exported(net, tmp_path):
    state = {name: value.clone() for name, value in net.state_dict().items()}
    state["layer4.1.bn2.weight"][:] = 3e38
    state["layer4.1.bn2.running_var"][:] = 1e-30
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=r"net\.safetensors computes values that are not finite: its training diverged"):
        export(tmp_path / "net.safetensors", "torchvision", tmp_path / "r18.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_quiet_stage_is_measured_by_its_own_size(net, tmp_path, monkeypatch):
    """Features of 1e-4 that differ by a tenth differ by 1e-5: little, were it not their own size that counts."""
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for name in ("layer4.0.bn2", "layer4.1.bn2", "layer4.0.downsample.1"):
        state[f"{name}.weight"] *= 1e-5
        state[f"{name}.bias"] *= 1e-5
    save_file(state, tmp_path / "net.safetensors")

    def write(encoder, out, metadata):
        state = {name: torch.tensor(value) for name, value in to_torch(encoder.variables).items()}
        save_file(state | {"layer4.0.bn2.weight": 1.3 * state["layer4.0.bn2.weight"]}, out)

    monkeypatch.setitem(formats.WRITERS, "torchvision", write)
    with pytest.raises(UserError, match="nothing was written"):
        export(tmp_path / "net.safetensors", "torchvision", tmp_path / "r18.safetensors")


def test_cards_of_imported_weights_name_their_origin_and_licence(net, tmp_path):
    """Others' weights are not called ours; ours stay ours, with their licence, through export and import."""
    import_weights(save(net, tmp_path / "moco.safetensors"), tmp_path / "moco")
    export(tmp_path / "moco", "torchvision", tmp_path / "a.safetensors", licence="cc-by-nc-4.0")
    card = (tmp_path / "a.safetensors.md").read_text()
    assert "did not train it" in card and "file `moco.safetensors`" in card and "UniVIP" not in card
    export(tmp_path / "a.safetensors", "torchvision", tmp_path / "b.safetensors", licence=None)
    card = (tmp_path / "b.safetensors.md").read_text()
    assert "license: cc-by-nc-4.0" in card and "did not train it" in card and "file `a.safetensors`" in card
    told = {"producer": "univip_jax", "run": "coco", "step": "800", "config_sha256": "0" * 64, "licence": "mit"}
    save_file(dict(net.state_dict()), tmp_path / "ours.safetensors", told)
    import_weights(tmp_path / "ours.safetensors", tmp_path / "ours")
    export(tmp_path / "ours", "torchvision", tmp_path / "c.safetensors", licence=None)
    card = (tmp_path / "c.safetensors.md").read_text()
    assert "license: mit" in card and "run `coco`, step `800`" in card and "by univip_jax" in card
    assert "No library builds a resnet18 of width 0.125" in card


@pytest.mark.parametrize("name", ["r50.pkl.md", "r50.pkl.parity.json", "r50_configs"])
def test_nothing_is_overwritten(run, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} exists; remove it, or choose another --out"):
        export(run, "detectron2", tmp_path / "r50.pkl")
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("module", "arguments", "code", "message"),
    [
        ("export", [], 2, "--run is missing: give --run=... --format=... --out=..."),
        ("export", ["--run=r", "--format=keras", "--out=o"], 2, "flag --format=keras"),
        ("export", ["--run=r", "--format=timm", "--out="], 2, "--out is missing"),
        ("export", ["--run=r", "--format=timm", "--out=o.safetensors", "more"], 2, "unexpected argument 'more'"),
        ("export", ["--run=r", "--format=timm", "--out=o.safetensors"], 1, "r is no run"),
        ("import_weights", ["--weights=none.pth", "--workdir=w"], 1, "none.pth: no such file"),
        ("import_weights", ["--weights=none.pth"], 2, "--workdir is missing"),
    ],
)
def test_mistakes_at_the_command_line_are_one_line(module, arguments, code, message, tmp_path):
    line = [sys.executable, "-m", f"univip_jax.{module}", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert result.stderr.count("\n") == 1 and message in result.stderr
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused_by_name(run, tmp_path):
    (tmp_path / "there.safetensors").write_bytes(b"")
    write_results(tmp_path / "knn", {"pretrained": "another", "step": 0})
    for kind, out, options, message in (
        ("torchvision", "there.safetensors", {}, r"there\.safetensors exists"),
        ("torchvision", "r18.pth", {}, r"--out=.*r18\.pth: a file of --format=torchvision ends in \.safetensors"),
        ("timm", "r18.safetensors", {}, r"is a resnet18 of width 0\.125, which timm does not build"),
        ("detectron2", "r18.pkl", {}, r"width=0\.125: Detectron2 builds ResNet-18 of width 1 alone"),
        ("torchvision", "r.safetensors", {"step": 5}, r"has no checkpoint of step 5; it has \[0\]"),
        ("torchvision", "r.safetensors", {"results": [str(tmp_path / "knn")]}, r"is of another after 0 steps, not of"),
        ("torchvision", "r.safetensors", {"results": [str(run)]}, r"is no finished evaluation"),
    ):
        with pytest.raises(UserError, match=message):
            export(run, kind, tmp_path / out, **options)
    assert {path.name for path in tmp_path.iterdir()} == {"there.safetensors", "knn"}


def test_the_small_stem_goes_where_it_can(tmp_path):
    net = Architecture("resnet10", WIDTH, "small").make()
    variables = net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    path = tmp_path / "net.safetensors"
    path.write_bytes(numpy_save(to_flat(variables)))
    with pytest.raises(UserError, match=r"model\.stem=small, which no ResNet there has; choose one of safetensors, s"):
        export(path, "torchvision", tmp_path / "r10.safetensors")
    assert export(path, "stablehlo", tmp_path / "r10.stablehlo")["largest_difference"] < 1e-4
