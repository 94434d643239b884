"""The configs against facts of Detectron2's source, written down here by hand, and the command.

Sources: detectron2/config/defaults.py, configs/Base-RCNN-FPN.yaml, configs/Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml,
configs/common/coco_schedule.py; fvcore/common/config.py merges a file over its `_BASE_`, found beside the file.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from univip_jax.common.errors import UserError
from univip_jax.export.detectron2 import check, configs
from univip_jax.export.detectron2.configs import FILES, resnet_keys, write_configs
from univip_jax.models.resnet import ResNet
from univip_jax.weights.names import shapes_of, to_detectron2, to_torch
from univip_jax.weights.pickle_file import write_pkl

ROOT = Path(__file__).parents[2]
R50 = ResNet("resnet50", 1.0, "imagenet")
# Detectron2's defaults of the keys that our configs set; the types count, as a config may not change them.
DEFAULTS = {
    "VERSION": 2,
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.WEIGHTS": "",
    "MODEL.MASK_ON": False,
    "MODEL.PIXEL_MEAN": [103.530, 116.280, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, False],
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.FPN.IN_FEATURES": [],
    "MODEL.FPN.NORM": "",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.ROI_BOX_HEAD.NAME": "",
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 0,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 0,
    "MODEL.ROI_BOX_HEAD.NORM": "",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,
    "MODEL.ROI_MASK_HEAD.NORM": "",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "DATASETS.TRAIN": (),
    "DATASETS.TEST": (),
    "INPUT.FORMAT": "BGR",
    "INPUT.MIN_SIZE_TRAIN": (800,),
    "INPUT.MIN_SIZE_TEST": 800,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.STEPS": (30000,),
    "SOLVER.MAX_ITER": 40000,
    "TEST.PRECISE_BN.ENABLED": False,
    "OUTPUT_DIR": "./output",
}
# What the protocol asks beyond the checker's rules.
PROTOCOL = {
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "DATASETS.TRAIN": ["coco_2017_train"],
    "DATASETS.TEST": ["coco_2017_val"],
}
SCHEDULES = {"1x": (90000, [60000, 80000]), "2x": (180000, [120000, 160000]), "6x": (540000, [480000, 520000])}


def flat(config: dict, above: str = "") -> dict:
    """Nested keys to dotted ones."""
    found = {}
    for key, value in config.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def load(path: Path) -> dict:
    """A file over its base, as fvcore merges them: by dotted keys, since no dict replaces a plain value here."""
    config = flat(yaml.safe_load(path.read_text()))
    base = config.pop("_BASE_", None)
    return (load(path.parent / base) if base else {}) | config


def test_check_knows_detectron2s_defaults():
    assert check.DEFAULTS.items() == {key: DEFAULTS[key] for key in check.DEFAULTS}.items()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shipped_config_checks_clean_and_uses_detectron2s_keys(schedule):
    config = load(Path(configs.__file__).with_name(f"{schedule}.yaml"))
    assert config.keys() <= DEFAULTS.keys()
    lists = (list, tuple)  # Detectron2 takes either for the other
    for key, value in config.items():
        either = isinstance(value, lists) and isinstance(DEFAULTS[key], lists)
        assert type(value) is type(DEFAULTS[key]) or either, key
    assert check.check_config(Path(configs.__file__).with_name(f"{schedule}.yaml")) == []
    assert {key: config[key] for key in PROTOCOL} == PROTOCOL
    assert (config["SOLVER.MAX_ITER"], config["SOLVER.STEPS"]) == SCHEDULES[schedule]
    assert config["OUTPUT_DIR"].endswith(schedule)  # else one run would overwrite another
    assert {f"MODEL.RESNETS.{key}": value for key, value in resnet_keys(R50).items()}.items() <= config.items()


def test_configs_are_package_data():
    """An installed package has them too."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert data == {"univip_jax.export.detectron2": ["*.yaml"]}


@pytest.mark.parametrize(
    ("backbone", "width", "values"),
    [
        ("resnet50", 2.0, (50, 128, 512, 128)),
        ("resnet101", 1.0, (101, 64, 256, 64)),
        ("resnet18", 1.0, (18, 64, 64, 64)),
    ],
)
def test_write_configs_fills_in_the_backbone_and_the_weights(tmp_path, backbone, width, values):
    weights = 'C:\\a "b".pkl'
    assert write_configs(tmp_path, weights, ResNet(backbone, width, "imagenet")) == [tmp_path / f for f in FILES]
    config, shipped = load(tmp_path / "2x.yaml"), load(Path(configs.__file__).with_name("2x.yaml"))
    keys = [f"MODEL.RESNETS.{key}" for key in ("DEPTH", "STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS", "WIDTH_PER_GROUP")]
    changed = dict(zip(keys, values, strict=True)) | {"MODEL.WEIGHTS": weights}
    assert config == shipped | changed
    with pytest.raises(UserError, match=r"cannot write .*1x\.yaml: File exists; remove it, or choose another folder"):
        write_configs(tmp_path, "w.pkl", R50)
    assert load(tmp_path / "2x.yaml") == config


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            ("resnet200", 1.0, "imagenet"),
            "resnet200 of width 1 .*it builds resnet18, resnet34, resnet50, resnet101, re",
        ),
        (("resnet10", 1.0, "imagenet"), "resnet10 of width 1"),
        (("resnet50", 1.0, "small"), "resnet50 of width 1 with stem=small; it builds"),
        (("resnet18", 2.0, "imagenet"), "resnet18 of width 2 .*only resnet50 and deeper may have a width other than 1"),
    ],
)
def test_resnet_keys_refuses_what_detectron2_cannot_build(backbone, message):
    with pytest.raises(UserError, match=f"Detectron2 cannot build a {message}"):
        resnet_keys(ResNet(*backbone))


def run(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "univip_jax.export.detectron2", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return result.returncode, result.stdout, result.stderr


def test_command_writes_configs_and_checks_one(tmp_path):
    shapes = shapes_of(ResNet("resnet18"))
    state = to_torch(jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes))
    write_pkl(tmp_path / "w.pkl", to_detectron2(state))
    code, out, err = run(f"--write={tmp_path / 'c'}", f"--weights={tmp_path / 'w.pkl'}")
    config = tmp_path / "c" / "1x.yaml"
    assert (code, err, out.splitlines()[0]) == (0, "", str(config))
    assert check.check_config(config, tmp_path / "w.pkl") == []
    base = tmp_path / "c" / "base.yaml"
    base.write_text(base.read_text().replace("FORMAT: RGB", "FORMAT: BGR"))
    code, out, err = run(f"--check={config}", f"--weights={tmp_path / 'w.pkl'}")
    assert (code, err) == (1, "")
    assert len(out.splitlines()) == 1 and out.startswith("error: INPUT.FORMAT is 'BGR', wanted 'RGB'")
