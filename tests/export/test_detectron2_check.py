"""Each mistake alone is found by its key, and what is right is not."""

from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.common.errors import UserError
from univip_jax.export.detectron2 import configs
from univip_jax.export.detectron2.check import DEFAULTS, RULES, check_config
from univip_jax.models.resnet import ResNet
from univip_jax.weights.names import shapes_of, to_detectron2, to_torch
from univip_jax.weights.pickle_file import write_pkl


def good(changes: dict) -> dict:
    """The protocol's base with dotted keys changed; None removes one."""
    config = yaml.safe_load(Path(configs.__file__).with_name("base.yaml").read_text())
    for dotted, value in changes.items():
        *above, last = dotted.split(".")
        node = config
        for key in above:
            node = node[key]
        node[last] = value
        if value is None:
            del node[last]
    return config


def check(folder: Path, config: dict | str, weights: Path | None = None) -> dict:
    """Findings of a config (a dict or YAML text) by key."""
    path = folder / "config.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return {finding.key: finding for finding in check_config(path, weights)}


def weights(folder: Path, *architecture) -> Path:
    """An exported file of ones."""
    shapes = shapes_of(ResNet(*architecture))
    state = to_torch(jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes))
    write_pkl(folder / "r50.pkl", to_detectron2(state))
    return folder / "r50.pkl"


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
        ("MODEL.BACKBONE.FREEZE_AT", 2, "error"),
        ("MODEL.BACKBONE.FREEZE_AT", None, "error"),
        ("MODEL.FPN.NORM", None, "error"),
        ("MODEL.ROI_BOX_HEAD.NORM", "", "error"),
        ("MODEL.ROI_MASK_HEAD.NORM", None, "error"),
        ("MODEL.WEIGHTS", None, "error"),
        ("MODEL.WEIGHTS", "detectron2://ImageNetPretrained/MSRA/R-50.pkl", "error"),
        ("MODEL.WEIGHTS", "See Instructions", "error"),
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
def test_check_finds_one_mistake_by_name(tmp_path, key, value, severity):
    findings = check(tmp_path, good({key: value}))
    assert list(findings) == [key]
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
def test_check_accepts_values_as_detectron2_decodes_them(tmp_path, key, value):
    assert check(tmp_path, good({key: value})) == {}


def test_check_wants_the_mean_and_std_that_the_backbone_learned_with():
    wanted = {rule.key: rule.wanted for rule in RULES}
    np.testing.assert_allclose(wanted["MODEL.PIXEL_MEAN"], 255 * IMAGENET_MEAN, rtol=1e-6)
    np.testing.assert_allclose(wanted["MODEL.PIXEL_STD"], 255 * IMAGENET_STD, rtol=1e-6)


def test_check_wants_the_rate_scaled_to_the_batch(tmp_path):
    assert check(tmp_path, good({"SOLVER.IMS_PER_BATCH": 8, "SOLVER.BASE_LR": 0.01})) == {}
    assert check(tmp_path, good({"SOLVER.IMS_PER_BATCH": 8}))["SOLVER.BASE_LR"].wanted == 0.01


def test_check_of_an_empty_config_finds_all_of_detectron2s_defaults(tmp_path):
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
    assert {"MODEL.BACKBONE.NAME", "MODEL.MASK_ON", "SOLVER.BASE_LR"} <= set(findings)
    # What the config does not build costs nothing.
    assert not {"MODEL.FPN.NORM", "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM"} & set(findings)
    assert all(finding.is_default and finding.value == DEFAULTS[key] for key, finding in findings.items())
    assert [f.severity for f in findings.values()] == sorted(f.severity for f in findings.values())


def test_check_reads_the_base_or_names_it(tmp_path):
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "middle.yaml").write_text("_BASE_: ../base.yaml\nINPUT: {FORMAT: BGR}\n")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(good({"MODEL.BACKBONE.FREEZE_AT": 1})))
    assert check(tmp_path, "_BASE_: up/middle.yaml\nMODEL: {BACKBONE: {FREEZE_AT: 0}}").keys() == {"INPUT.FORMAT"}
    assert check(tmp_path, "_BASE_: [up/middle.yaml, base.yaml]").keys() == {"MODEL.BACKBONE.FREEZE_AT"}
    for missing in ("../Base-RCNN-FPN.yaml", "detectron2://Base-RCNN-FPN.yaml", "https://example.org/base.yaml"):
        findings = check(tmp_path, {"_BASE_": missing} | good({}))
        assert [(f.key, f.value, f.severity) for f in findings.values()] == [("_BASE_", missing, "warning")]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("MODEL: !!python/object/apply:os.mkdir [made]", r"python/object/apply:os.mkdir.*line 1"),
        ("A: 1\nSOLVER: {STEPS: !!python/tuple [1, 2]}", r"python/tuple.*line 2"),
        ("MODEL: !other 1", r"!other"),
        ("MODEL: [", "as plain YAML"),
        ("from detectron2 import model_zoo\nmodel = 1\n", "holds no keys and values"),
        ("- 1", "holds no keys and values"),
        ("_BASE_: 3", "its _BASE_ is no name of a file"),
        ("A: !!bool maybe", "as plain YAML"),
        ("A: \x00", "as plain YAML"),
    ],
)
def test_check_refuses_other_files_and_runs_nothing_of_them(tmp_path, monkeypatch, text, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=named) as error:
        check(tmp_path, text)
    assert not (tmp_path / "made").exists() and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"cannot read .*nothing\.yaml"):
        check_config(tmp_path / "nothing.yaml")


def test_check_finds_another_depth_or_width_than_the_weights_have(tmp_path):
    half = weights(tmp_path, "resnet101", 0.5, "imagenet")
    config = good({"MODEL.WEIGHTS": "elsewhere/r50.pkl"})
    assert {key.split(".")[-1]: finding.wanted for key, finding in check(tmp_path, config, half).items()} == {
        "DEPTH": 101,
        "STEM_OUT_CHANNELS": 32,
        "RES2_OUT_CHANNELS": 128,
        "WIDTH_PER_GROUP": 32,
    }
    found = check(tmp_path, good({"MODEL.WEIGHTS": "other.pkl"}), half)["MODEL.WEIGHTS"]
    assert (found.wanted, found.severity) == ("r50.pkl", "error")
    with pytest.raises(UserError, match=r"r50\.pth is no \.pkl: write one by python -m univip_jax\.export"):
        check(tmp_path, config, tmp_path / "r50.pth")


def test_check_lets_the_stride_be_where_no_block_has_a_1x1(tmp_path):
    basic = weights(tmp_path, "resnet18", 1.0, "imagenet")
    changes = {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.STRIDE_IN_1X1": True, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
    assert check(tmp_path, good(changes), basic) == {}
