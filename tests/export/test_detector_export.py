"""Exports of detectors without PyTorch: arrays, config, card, and what is refused and leaves nothing behind."""

import json
import sys

import pytest
import yaml
from safetensors import safe_open

from tests.weights.random_detector import FULL, PLAIN, detector_variables
from tests.weights.random_weights import assert_equal
from univip_jax.common.errors import Misuse, UserError
from univip_jax.export import __main__ as command
from univip_jax.export import detectors
from univip_jax.export.detectors import DETECTORS, export_detector
from univip_jax.export.detectron2.check import check_config
from univip_jax.export.detectron2.configs import write_detector_config
from univip_jax.models.resnet import ResNet
from univip_jax.weights.detector_file import DETECTOR, read_detector, write_detector
from univip_jax.weights.detector_names import to_torchvision_detector

NET = FULL.clone(backbone=ResNet("resnet50", 0.0625))
FACTS = {
    "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "π"}, {"id": 12, "name": "dog"}],
    "detector": {"rpn_candidates": [2000, 900], "test_nms": 0.4},
    "input": {"test_short_side": 640, "max_side": 1000},
    "step": 600,
}


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
    for library in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(detectors, "SIZES", ((64, 64),))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco_det")
    write_detector(folder / DETECTOR, NET, detector_variables(NET), FACTS)
    (folder / "results.json").write_text(json.dumps({"box": {"AP": 40.84}, "mask": None}))
    return folder


def export(run, kind, out, **options):
    return export_detector(run, kind, out, **{"step": None, "results": [], "licence": None, **options})


def test_a_file_for_detectron2_comes_with_the_config_of_its_network(run, tmp_path):
    report = export(run, "detectron2_detector", tmp_path / "d.pkl")
    assert report["arrays_are_bit_identical"] and report["largest_difference"] == 0
    assert report["not_installed"] == ["transformers", "torch"] and report["consumer"].keys() == {"jax"}
    found = read_detector(tmp_path / "d.pkl")
    assert found.net == NET
    assert_equal(found.variables, detector_variables(NET))

    config = yaml.safe_load((tmp_path / "d.yaml").read_text())
    model = config["MODEL"]
    assert check_config(tmp_path / "d.yaml", tmp_path / "d.pkl") == []
    assert model["WEIGHTS"] == str(tmp_path / "d.pkl") and model["MASK_ON"] is True
    assert model["FPN"] == {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "NORM": "SyncBN", "OUT_CHANNELS": 8}
    box = model["ROI_BOX_HEAD"]
    assert [box[key] for key in ("NUM_CONV", "CONV_DIM", "NUM_FC", "FC_DIM", "NORM")] == [4, 8, 1, 16, "SyncBN"]
    assert (model["ROI_HEADS"]["NUM_CLASSES"], model["ROI_HEADS"]["NMS_THRESH_TEST"]) == (3, 0.4)
    assert (model["RPN"]["PRE_NMS_TOPK_TEST"], config["INPUT"]["MIN_SIZE_TEST"]) == (900, 640)
    assert config["DATASETS"] == {"TRAIN": [], "TEST": []} and config["SOLVER"]["MAX_ITER"] == 90000

    card = (tmp_path / "d.pkl.md").read_text()
    assert (
        ", step 600, sha256 `" in card
        and "box AP 40.8" in card
        and "7 cat, 9 π, 12 dog" in card
        and "--config-file d.yaml" in card
    )
    assert json.loads((tmp_path / "d.pkl.parity.json").read_text()) == report


def test_the_config_of_other_layers(tmp_path):
    net = PLAIN.clone(backbone=PLAIN.backbone.clone(stride_in_1x1=True), num_classes=80)
    write_detector_config(tmp_path / "d.yaml", "d.pkl", net, {})
    config = yaml.safe_load((tmp_path / "d.yaml").read_text())
    model = config["MODEL"]
    assert model["RESNETS"]["STRIDE_IN_1X1"] is True and model["MASK_ON"] is False
    box = model["ROI_BOX_HEAD"]
    assert [box[key] for key in ("NUM_CONV", "NUM_FC", "NORM")] == [0, 2, ""] and model["FPN"]["NORM"] == ""
    assert config["DATASETS"]["TEST"] == ["coco_2017_val"]


def test_a_file_for_torchvision_keeps_the_facts(run, tmp_path):
    (tmp_path / "d.yaml").write_text("mine")
    assert export(run, "torchvision_detector", tmp_path / "d.safetensors", licence="mit")["arrays_are_bit_identical"]
    assert read_detector(tmp_path / "d.safetensors").facts == FACTS
    with safe_open(tmp_path / "d.safetensors", framework="numpy") as file:
        assert file.metadata()["licence"] == "mit" and file.metadata()["format"] == "pt"
    assert (tmp_path / "d.yaml").read_text() == "mine"
    assert "torchvision builds no resnet50 of width 0.0625" in (tmp_path / "d.safetensors.md").read_text()


def test_a_changed_bit_writes_nothing(run, tmp_path, monkeypatch):
    def state(variables):
        found = to_torchvision_detector(variables)
        found["rpn.head.cls_logits.bias"] = found["rpn.head.cls_logits.bias"] * 1.0000001
        return found

    monkeypatch.setitem(DETECTORS, "torchvision_detector", DETECTORS["torchvision_detector"]._replace(state=state))
    with pytest.raises(UserError, match="params/proposals/logits/bias reads back with other bits: nothing was written"):
        export(run, "torchvision_detector", tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_refused_by_name(run, tmp_path):
    for name, net in (
        ("cifar", FULL.clone(backbone=FULL.backbone.clone(stem="cifar"))),
        ("wide", FULL),
        ("strided", PLAIN.clone(backbone=PLAIN.backbone.clone(stride_in_1x1=True))),
    ):
        write_detector(tmp_path / name, net, detector_variables(net), {})
    (tmp_path / "there.yaml").write_text("mine")
    before = set(tmp_path.iterdir())
    for source, kind, out, options, error, message in (
        (run, "detectron2_detector", "there.pkl", {}, UserError, r"there\.yaml exists; remove it, or choose another"),
        (run, "detectron2_detector", "d.pth", {}, UserError, r"d\.pth: a file of --format=detectron2_detector ends in"),
        (run, "detectron2_detector", "d.pkl", {"step": 3}, Misuse, "a run has one detector.* leave out --step"),
        (tmp_path, "detectron2_detector", "d.pkl", {}, UserError, "has no detector.safetensors: name the --workdir of"),
        (
            tmp_path / "cifar",
            "detectron2_detector",
            "d.pkl",
            {},
            UserError,
            "cifar has a cifar stem, which has no coun",
        ),
        (tmp_path / "wide", "detectron2_detector", "d.pkl", {}, UserError, "cannot build a resnet18 of width 0.125"),
        (tmp_path / "strided", "torchvision_detector", "d.safetensors", {}, UserError, "its strides in the 1x1, as no"),
    ):
        with pytest.raises(error, match=message):
            export(source, kind, tmp_path / out, **options)
    with pytest.raises(
        UserError, match="is a detector's run, --format=timm a backbone's: give --format=detectron2_det"
    ):
        command.export(run, "timm", tmp_path / "t.safetensors", step=None, results=[], licence=None)
    assert set(tmp_path.iterdir()) == before
