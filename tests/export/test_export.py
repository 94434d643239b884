"""Exports without PyTorch: arrays bit for bit, what the card says, and what is refused and leaves nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.weights.random_weights import SMALL, assert_equal, variables_of
from univip_jax import load_encoder
from univip_jax.common.errors import UserError
from univip_jax.evaluate.results import write_results
from univip_jax.export import __main__ as command
from univip_jax.export import formats, parity
from univip_jax.export.card import describe, write_card
from univip_jax.export.detectron2.check import check_config
from univip_jax.export.parity import photos, summary
from univip_jax.models.resnet import ResNet
from univip_jax.weights.imported import import_weights
from univip_jax.weights.names import to_flat, to_torch
from univip_jax.weights.pickle_file import read_pkl

VARIABLES = variables_of(SMALL)


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
    for library in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, library, None)


@pytest.fixture
def small_photos(monkeypatch):
    """One size to compile for, where the proof is not what is tested."""
    monkeypatch.setattr(parity, "SIZES", ((64, 64),))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run's folder, such as training leaves."""
    folder = tmp_path_factory.mktemp("run")
    save_file(to_torch(VARIABLES), folder / "net.safetensors")
    import_weights(folder / "net.safetensors", folder / "run", image_size=64)
    config = json.loads((folder / "run" / "config.json").read_text())
    del config["imported"]
    (folder / "run" / "config.json").write_text(json.dumps({**config, "task": "train"}))
    return folder / "run"


def export(run, kind, out, **options):
    return command.export(run, kind, out, **{"step": None, "results": [], "licence": "other", **options})


@pytest.mark.parametrize("kind", ["torchvision", "safetensors"])
def test_export_to_a_file_and_back_is_bit_identical(run, kind, tmp_path, small_photos):
    report = export(run, kind, tmp_path / "r18.safetensors")
    assert report["arrays_are_bit_identical"] and report["largest_difference"] == 0
    assert report["consumer"].keys() == {"jax"}
    skipped = "; not compared with PyTorch (not installed: transformers, torch): pip install -r requirements-export.txt"
    assert (skipped in summary(report)) == (kind == "torchvision")
    import_weights(tmp_path / "r18.safetensors", tmp_path / "again")
    assert_equal(load_encoder(tmp_path / "again").variables, load_encoder(run).variables)


def test_export_for_detectron2_has_its_names_and_configs_that_check_clean(tmp_path, small_photos):
    wide = variables_of(ResNet("resnet50", 0.125, "imagenet"))
    save_file(to_torch(wide), tmp_path / "net.safetensors")
    out = tmp_path / "r50.pkl"
    assert export(tmp_path / "net.safetensors", "detectron2", out)["arrays_are_bit_identical"]
    assert_equal(load_encoder(out).variables, wide)
    found = read_pkl(out)["res3.0.shortcut.norm.running_var"]
    np.testing.assert_array_equal(found, wide["batch_stats"]["layer2_0"]["downsample_bn"]["var"])
    for name in ("1x.yaml", "2x.yaml", "6x.yaml"):
        assert check_config(tmp_path / "r50_configs" / name, out) == []
    assert f'WEIGHTS: "{out}"' in (tmp_path / "r50_configs" / "base.yaml").read_text()


def test_export_writes_a_file_a_card_and_a_report(run, tmp_path):
    out = tmp_path / "new" / "r18.safetensors"
    write_results(tmp_path / "knn", {"protocol": "knn", "top1": 12.5, "pretrained": str(run), "step": 0})
    report = export(run, "torchvision", out, results=[str(tmp_path / "knn")], licence="cc-by-4.0")
    names = ["r18.safetensors", "r18.safetensors.md", "r18.safetensors.parity.json"]
    assert sorted(path.name for path in out.parent.iterdir()) == names
    with safe_open(out, framework="numpy") as file:
        metadata = file.metadata()
    assert (metadata["run"], metadata["step"], metadata["licence"]) == ("run", "0", "cc-by-4.0")
    assert len(metadata["config_sha256"]) == 64 and json.loads(metadata["results"])[0]["top1"] == 12.5
    assert json.loads(out.with_name("r18.safetensors.parity.json").read_text()) == report
    assert report["differences"].keys() == {"224x224", "225x301"}
    card = out.with_name("r18.safetensors.md").read_text()
    assert "license: cc-by-4.0" in card and "top1" in card and "run `run`, step `0`" in card


def test_export_as_stablehlo_takes_any_batch_and_size(run, tmp_path, small_photos):
    assert not export(run, "stablehlo", tmp_path / "r18.stablehlo")["arrays_are_bit_identical"]
    function = jax.export.deserialize(bytearray((tmp_path / "r18.stablehlo").read_bytes())).call
    for images in (photos(97, 65), photos(64, 64)[:1]):
        np.testing.assert_allclose(function(images), load_encoder(run)(images), atol=1e-4)


def card_of(source: Path, out: Path, licence: str | None = None) -> str:
    """The card of an export without its proof, beside the file."""
    encoder = load_encoder(source)
    metadata = describe(encoder, source, [], licence)
    formats.write_torch_names(encoder, out, metadata)
    report = {"arrays_are_bit_identical": True, "consumer": {}, "largest_difference": 0.0, "not_installed": []}
    write_card(out.with_suffix(".md"), encoder, "torchvision", out, metadata, report)
    return out.with_suffix(".md").read_text()


def test_card_of_imported_weights_names_their_origin_and_licence(tmp_path):
    """Weights from elsewhere are not called ours; ours stay ours, with their licence, through export and import."""
    save_file(to_torch(VARIABLES), tmp_path / "moco.safetensors")
    import_weights(tmp_path / "moco.safetensors", tmp_path / "moco")
    card = card_of(tmp_path / "moco", tmp_path / "a.safetensors", "cc-by-nc-4.0")
    assert "did not train it" in card and "file `moco.safetensors`" in card and "UniVIP" not in card
    card = card_of(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert "license: cc-by-nc-4.0" in card and "did not train it" in card and "file `a.safetensors`" in card
    metadata = {"producer": "univip_jax", "run": "coco", "step": "800", "config_sha256": "0" * 64, "licence": "mit"}
    save_file(to_torch(VARIABLES), tmp_path / "ours.safetensors", metadata)
    import_weights(tmp_path / "ours.safetensors", tmp_path / "ours")
    card = card_of(tmp_path / "ours", tmp_path / "c.safetensors")
    assert "license: mit" in card and "run `coco`, step `800`" in card and "univip_jax trained it" in card
    assert "No library builds a resnet18 of width 0.125" in card


def test_export_of_a_changed_bit_writes_nothing(run, tmp_path, monkeypatch, small_photos):
    def write(encoder, out, metadata):
        state = {name: value.copy() for name, value in to_torch(encoder.variables).items()}
        state["layer4.1.bn2.running_var"].view(np.uint32)[3] ^= 1
        save_file(state, out)

    monkeypatch.setitem(formats.FORMATS, "torchvision", formats.FORMATS["torchvision"]._replace(write=write))
    with pytest.raises(UserError, match=r"layer4\.1\.bn2\.running_var reads back with other bits: nothing was written"):
        export(run, "torchvision", tmp_path / "r18.safetensors")
    assert not list(tmp_path.iterdir())


def test_export_of_a_diverged_network_writes_nothing(tmp_path, small_photos):
    state = to_torch(VARIABLES)
    state["layer4.1.bn2.weight"] = np.full(64, 3e38, np.float32)
    state["layer4.1.bn2.running_var"] = np.full(64, 1e-30, np.float32)
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=r"net\.safetensors computes values that are not finite: its training diverged"):
        export(tmp_path / "net.safetensors", "torchvision", tmp_path / "r18.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("name", ["r50.pkl.md", "r50.pkl.parity.json", "r50_configs"])
def test_export_overwrites_nothing(run, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} exists; remove it, or choose another --out"):
        export(run, "detectron2", tmp_path / "r50.pkl")
    assert (tmp_path / name).read_text() == "mine"


def test_export_refuses_what_does_not_fit_by_name(run, tmp_path):
    (tmp_path / "there.safetensors").write_bytes(b"")
    save_file(to_flat(variables_of(ResNet("resnet10", 0.125, "small"))), tmp_path / "small.safetensors")
    write_results(tmp_path / "knn", {"pretrained": "another", "step": 0})
    before = set(tmp_path.iterdir())
    for source, kind, out, options, message in (
        (run, "torchvision", "there.safetensors", {}, r"there\.safetensors exists"),
        (run, "torchvision", "r.pth", {}, r"--out=.*r\.pth: a file of --format=torchvision ends in \.safetensors"),
        (run, "timm", "r.safetensors", {}, r"is a resnet18 of width 0\.125, which timm does not build"),
        (run, "detectron2", "r.pkl", {}, r"cannot build a resnet18 of width 0\.125 .*: only resnet50 and deeper"),
        (run, "torchvision", "r.safetensors", {"step": 5}, r"has no checkpoint of step 5; it has \[0\]"),
        (run, "torchvision", "r.safetensors", {"results": [str(tmp_path / "knn")]}, r"names another after 0"),
        (run, "torchvision", "r.safetensors", {"results": [str(run)]}, r"is no finished evaluation"),
        (run, "transformers", "r18", {}, r"torch is missing .*: pip install -r requirements-export\.txt"),
        (run, "onnx", "r18.onnx", {}, r"torch is missing .*: pip install -r requirements-export\.txt"),
        (
            tmp_path / "small.safetensors",
            "torchvision",
            "r.safetensors",
            {},
            r"stem=small, which has no counterpart th",
        ),
    ):
        with pytest.raises(UserError, match=message):
            export(source, kind, tmp_path / out, **options)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("stem", ["small", "cifar"])
def test_export_takes_a_3x3_stem_under_our_names_and_says_which(stem, tmp_path, small_photos):
    variables, path, out = variables_of(ResNet("resnet10", 0.125, stem)), tmp_path / "in", tmp_path / "r10.safetensors"
    save_file(to_flat(variables), path, {"stem": stem})
    assert export(path, "safetensors", out)["arrays_are_bit_identical"]
    assert load_file(out).keys() == to_flat(variables).keys()
    assert load_encoder(out).backbone.stem == stem
    with pytest.raises(
        UserError, match=f"stem={stem}, which has no counterpart there; choose one of safetensors, stab"
    ):
        export(path, "torchvision", tmp_path / "tv.safetensors")


@pytest.mark.parametrize(
    ("module", "arguments", "code", "message"),
    [
        ("export", ["--run=r", "--format=timm", "--out=o.safetensors"], 1, "r is no run"),
        ("weights", ["--weights=none.pth"], 2, "--workdir is missing"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(module, arguments, code, message, tmp_path):
    line = [sys.executable, "-m", f"univip_jax.{module}", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert result.stderr.count("\n") == 1 and message in result.stderr
    assert not list(tmp_path.iterdir())
