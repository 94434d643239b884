"""Each mistake alone is found by its key, and what is right is not."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from univip_jax.common.errors import UserError
from univip_jax.export.detectron2.check import DEFAULTS, check_config
from univip_jax.export.detectron2.configs import mask_rcnn_config
from univip_jax.weights.detectron2 import backbone_shapes, from_detectron2


def good(**changes) -> dict:
    """A config of the protocol, with dotted keys (dots as two underscores) changed; None removes one."""
    config = mask_rcnn_config("1x", "w.pkl")
    for dotted, value in changes.items():
        *above, last = dotted.split("__")
        node = config
        for key in above:
            node = node[key]
        if value is None:
            del node[last]
        else:
            node[last] = value
    return config


def check(folder: Path, config, weights=None) -> dict:
    """Findings of a config (a dict or YAML text) by key."""
    path = folder / "config.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return {finding.key: finding for finding in check_config(path, weights)}


def state(depth: int = 18, **widths) -> dict:
    """Arrays of a backbone under Detectron2's names, without memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in backbone_shapes(depth, **widths).items()}


@pytest.mark.parametrize(
    ("key", "value", "severity"),
    [
        ("INPUT.FORMAT", "BGR", "error"),
        ("INPUT.FORMAT", None, "error"),
        ("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675], "error"),
        ("MODEL.PIXEL_MEAN", [0.485, 0.456, 0.406], "error"),
        ("MODEL.PIXEL_MEAN", [123.675], "error"),
        ("MODEL.PIXEL_STD", None, "error"),
        ("MODEL.PIXEL_STD", "(57.375, 57.12, 58.395)", "error"),
        ("MODEL.RESNETS.NORM", "FrozenBN", "error"),
        ("MODEL.RESNETS.NORM", "BN", "error"),
        ("MODEL.RESNETS.STRIDE_IN_1X1", None, "error"),
        ("MODEL.RESNETS.NUM_GROUPS", 32, "error"),
        ("MODEL.RESNETS.DEPTH", 200, "error"),
        ("MODEL.BACKBONE.FREEZE_AT", 2, "error"),
        ("MODEL.BACKBONE.FREEZE_AT", None, "error"),
        ("MODEL.FPN.NORM", None, "error"),
        ("MODEL.ROI_BOX_HEAD.NORM", "", "error"),
        ("MODEL.ROI_MASK_HEAD.NORM", None, "error"),
        ("MODEL.WEIGHTS", None, "error"),
        ("MODEL.WEIGHTS", "detectron2://ImageNetPretrained/MSRA/R-50.pkl", "error"),
        ("MODEL.WEIGHTS", "See Instructions", "warning"),
        ("MODEL.ROI_BOX_HEAD.NUM_CONV", None, "warning"),
        ("MODEL.MASK_ON", False, "warning"),
        ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "warning"),
        ("INPUT.MIN_SIZE_TRAIN", None, "warning"),
        ("INPUT.MIN_SIZE_TRAIN", "(480, 800)", "warning"),
        ("TEST.PRECISE_BN.ENABLED", None, "warning"),
        ("SOLVER.BASE_LR", 0.04, "warning"),
        ("SOLVER.BASE_LR", None, "warning"),
    ],
)
def test_one_mistake_is_found_by_name(tmp_path, key, value, severity):
    findings = check(tmp_path, good(**{key.replace(".", "__"): value}))
    assert [name for name in findings] == [key]
    found = findings[key]
    assert found.severity == severity
    assert found.is_default == (value is None)
    if value is None:
        assert found.value == DEFAULTS[key]
        assert "Detectron2's default" in str(found)
    assert len(str(found).splitlines()) == 1 and key in str(found)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.MIN_SIZE_TRAIN", "(640, 672, 704, 736, 768, 800)"),
        ("MODEL.PIXEL_MEAN", "[123.675, 116.280, 103.530]"),
        ("MODEL.RESNETS.NORM", "naiveSyncBN"),
        ("MODEL.BACKBONE.FREEZE_AT", "0"),
        ("SOLVER.BASE_LR", "2e-2"),
        ("INPUT.FORMAT", '"RGB"'),
    ],
)
def test_values_as_detectron2_decodes_them_are_right(tmp_path, key, value):
    assert check(tmp_path, good(**{key.replace(".", "__"): value})) == {}


def test_the_order_of_bgr_is_said(tmp_path):
    findings = check(tmp_path, good(MODEL__PIXEL_MEAN=[103.53, 116.28, 123.675], MODEL__PIXEL_STD=[1.0, 1.0, 1.0]))
    assert "order of BGR" in findings["MODEL.PIXEL_MEAN"].reason
    assert "order of BGR" not in findings["MODEL.PIXEL_STD"].reason


def test_a_rate_scaled_to_its_batch_is_right(tmp_path):
    assert check(tmp_path, good(SOLVER__IMS_PER_BATCH=8, SOLVER__BASE_LR=0.01)) == {}
    assert check(tmp_path, good(SOLVER__IMS_PER_BATCH=8))["SOLVER.BASE_LR"].wanted == 0.01


def test_an_empty_config_has_all_of_detectron2s_defaults(tmp_path):
    findings = check(tmp_path, "")
    assert {key for key, finding in findings.items() if finding.severity == "error"} == {
        "INPUT.FORMAT",
        "MODEL.PIXEL_MEAN",
        "MODEL.PIXEL_STD",
        "MODEL.RESNETS.NORM",
        "MODEL.RESNETS.STRIDE_IN_1X1",
        "MODEL.BACKBONE.FREEZE_AT",
        "MODEL.WEIGHTS",
    }
    assert {"MODEL.FPN.NORM", "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM", "SOLVER.BASE_LR"} <= set(findings)
    assert all(finding.is_default and finding.value == DEFAULTS[key] for key, finding in findings.items())
    assert [f.severity for f in findings.values()] == sorted(f.severity for f in findings.values())


def test_the_stride_does_not_matter_where_no_block_has_a_1x1(tmp_path):
    basic = good(MODEL__RESNETS__DEPTH=18, MODEL__RESNETS__STRIDE_IN_1X1=True, MODEL__RESNETS__RES2_OUT_CHANNELS=64)
    assert check(tmp_path, basic, state(18, res2=64)) == {}
    basic["MODEL"]["RESNETS"]["RES2_OUT_CHANNELS"] = 256
    assert check(tmp_path, basic)["MODEL.RESNETS.RES2_OUT_CHANNELS"].wanted == 64


def test_the_base_is_read_where_it_is_and_named_where_not(tmp_path):
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "middle.yaml").write_text("_BASE_: ../base.yaml\nINPUT: {FORMAT: BGR}\n")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(good(MODEL__BACKBONE__FREEZE_AT=1)))
    assert check(tmp_path, "_BASE_: up/middle.yaml\nMODEL: {BACKBONE: {FREEZE_AT: 0}}").keys() == {"INPUT.FORMAT"}
    assert check(tmp_path, "_BASE_: [up/middle.yaml, base.yaml]").keys() == {"MODEL.BACKBONE.FREEZE_AT"}
    for missing in ("../Base-RCNN-FPN.yaml", "detectron2://Base-RCNN-FPN.yaml", "https://example.org/base.yaml"):
        findings = check(tmp_path, {"_BASE_": missing} | good())
        assert [(f.key, f.value, f.severity) for f in findings.values()] == [("_BASE_", missing, "warning")]


def test_a_base_of_itself_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("_BASE_: config.yaml\n")
    with pytest.raises(UserError, match=r"config\.yaml is its own _BASE_"):
        check(tmp_path, "_BASE_: a.yaml\n")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("MODEL: !!python/object/apply:os.mkdir [made]", r"line 1 has a !!python tag"),
        ("A: 1\nSOLVER: {STEPS: !!python/tuple [1, 2]}", r"line 2 has a !!python tag"),
        ("MODEL: !other 1", r"line 1: .*!other"),
        ("MODEL: [", "no YAML config"),
        ("from detectron2 import model_zoo\nmodel = 1\n", "not keys and values"),
        ("- 1", "it holds a list"),
        ("_BASE_: 3", "_BASE_ is 3"),
        ("MODEL: {RESNETS: {DEPTH: deep}}", "MODEL.RESNETS.DEPTH is 'deep'"),
        ("SOLVER: {IMS_PER_BATCH: [1]}", "SOLVER.IMS_PER_BATCH is "),
        ("A: !!bool maybe", "no YAML config"),
        ("A: \x00", "no YAML config"),
    ],
)
def test_configs_that_cannot_be_read_are_refused(tmp_path, monkeypatch, text, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=named):
        check(tmp_path, text)
    assert not (tmp_path / "made").exists()


def test_a_missing_config_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nothing\.yaml"):
        check_config(tmp_path / "nothing.yaml")


def test_names_that_would_not_load_are_found(tmp_path):
    names = set(state(50)) | {"stem.conv1.norm.num_batches_tracked"}
    assert check(tmp_path, good(), names) == {}
    assert "res4.1.conv2.weight" in check(tmp_path, good(), names - {"res4.1.conv2.weight"})["MODEL.WEIGHTS"].value
    findings = check(tmp_path, good(), names | {"linear.weight"})
    assert (findings["MODEL.WEIGHTS"].value, findings["MODEL.WEIGHTS"].severity) == ("linear.weight", "warning")
    some = check(tmp_path, good(), set(from_detectron2(backbone_shapes(50))))["MODEL.WEIGHTS"]
    assert some.severity == "error" and "torchvision" in some.reason


def test_another_depth_is_found(tmp_path):
    findings = check(tmp_path, good(), set(state(101)))
    assert {key: finding.wanted for key, finding in findings.items()} == {"MODEL.RESNETS.DEPTH": 101}


def test_other_widths_and_stems_are_found(tmp_path):
    findings = check(tmp_path, good(), state(50, stem=128, res2=512, inner=128))
    assert {key.split(".")[-1]: finding.wanted for key, finding in findings.items()} == {
        "STEM_OUT_CHANNELS": 128,
        "RES2_OUT_CHANNELS": 512,
        "WIDTH_PER_GROUP": 128,
    }
    small = state(50) | {"stem.conv1.weight": np.zeros((64, 3, 3, 3), np.float32)}
    found = check(tmp_path, good(), small)["MODEL.WEIGHTS"]
    assert found.value == "stem.conv1.weight" and "7x7" in found.wanted
