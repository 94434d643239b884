"""Configs against facts of Detectron2's source, written down here by hand, and the commands.

Sources: detectron2/config/defaults.py, configs/Base-RCNN-FPN.yaml, configs/Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml,
configs/common/coco_schedule.py.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from univip_jax.common.errors import UserError
from univip_jax.export.detectron2 import check as detectron2_check
from univip_jax.export.detectron2.check import check_config
from univip_jax.export.detectron2.configs import mask_rcnn_config, write_configs
from univip_jax.weights.detectron2 import backbone_shapes
from univip_jax.weights.pickle_file import write_pkl

ROOT = Path(__file__).parents[3]
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
# What the protocol asks, apart from the schedule.
PROTOCOL = {
    "MODEL.MASK_ON": True,
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.ROI_BOX_HEAD.NORM": "SyncBN",
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_MASK_HEAD.NORM": "SyncBN",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "DATASETS.TRAIN": ["coco_2017_train"],
    "DATASETS.TEST": ["coco_2017_val"],
    "INPUT.FORMAT": "RGB",
    "INPUT.MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800],
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
    "TEST.PRECISE_BN.ENABLED": True,
}
SCHEDULES = {"1x": (90000, [60000, 80000]), "2x": (180000, [120000, 160000]), "6x": (540000, [480000, 520000])}


def flat(config: dict, above: str = "") -> dict:
    """Nested keys to dotted ones."""
    found = {}
    for key, value in config.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def state(depth: int = 18, **widths) -> dict:
    """Arrays of a backbone under Detectron2's names, without memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in backbone_shapes(depth, **widths).items()}


def test_the_checks_defaults_are_detectron2s():
    assert detectron2_check.DEFAULTS.items() == {key: DEFAULTS[key] for key in detectron2_check.DEFAULTS}.items()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_config_has_the_protocols_values_under_detectron2s_keys(schedule):
    config = flat(mask_rcnn_config(schedule, "w.pkl"))
    assert config.keys() <= DEFAULTS.keys()
    lists = (list, tuple)  # Detectron2 takes either for the other
    for key, value in config.items():
        assert type(value) is type(DEFAULTS[key]) or (isinstance(value, lists) and isinstance(DEFAULTS[key], lists)), (
            key
        )
    assert {key: config[key] for key in PROTOCOL} == PROTOCOL
    assert (config["SOLVER.MAX_ITER"], config["SOLVER.STEPS"]) == SCHEDULES[schedule]
    assert config["MODEL.WEIGHTS"] == "w.pkl"


@pytest.mark.parametrize(
    ("depth", "width", "channels"), [(50, 2.0, (128, 512, 128)), (101, 1.0, (64, 256, 64)), (18, 1.0, (64, 64, 64))]
)
def test_widths_and_depths(depth, width, channels):
    config = flat(mask_rcnn_config("1x", "w.pkl", depth=depth, width=width))
    keys = [f"MODEL.RESNETS.{key}" for key in ("STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS", "WIDTH_PER_GROUP")]
    assert tuple(config[key] for key in keys) == channels
    assert config["MODEL.RESNETS.DEPTH"] == depth


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"depth": 200}, "depth=200"),
        ({"depth": 18, "width": 2.0}, "width=2"),
        ({"width": 0.3}, r"width=0\.3"),
        ({"width": 0.0}, "width=0"),
        ({"schedule": "3x"}, "schedule='3x'"),
        ({"weights": "w.npz"}, r"weights='w\.npz'"),
    ],
)
def test_what_detectron2_cannot_build_is_refused(change, named):
    arguments = {"schedule": "1x", "weights": "w.pkl"} | change
    with pytest.raises(UserError, match=named):
        mask_rcnn_config(**arguments)


def test_written_configs_are_plain_yaml_with_their_command_and_check_clean(tmp_path):
    paths = write_configs(tmp_path / "new", "w.pkl")
    assert [path.name for path in paths] == [f"mask_rcnn_R_50_FPN_{s}.yaml" for s in ("1x", "2x", "6x")]
    for path, (num_steps, _) in zip(paths, SCHEDULES.values(), strict=True):
        first = path.read_text().splitlines()[0]
        assert first.startswith("#") and f"--config-file {path}" in first
        assert yaml.safe_load(path.read_text())["SOLVER"]["MAX_ITER"] == num_steps
        assert check_config(path) == []
        assert check_config(path, state(50)) == []
    folders = {yaml.safe_load(path.read_text())["OUTPUT_DIR"] for path in paths}
    assert len(folders) == 3  # else one run would overwrite another


@pytest.mark.parametrize(("depth", "width"), [(18, 1.0), (50, 2.0), (152, 0.5)])
def test_configs_of_other_backbones_check_clean_against_their_weights(tmp_path, depth, width):
    path = write_configs(tmp_path, "w.pkl", depth=depth, width=width)[0]
    base = int(64 * width)
    weights = state(depth, stem=base, res2=base * (1 if depth == 18 else 4), inner=base)
    assert check_config(path, weights) == []


def run(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "univip_jax.export.detectron2", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return result.returncode, result.stdout, result.stderr


def test_the_commands(tmp_path):
    weights = tmp_path / "w.pkl"
    write_pkl(weights, state(18, res2=64))
    code, out, err = run(f"--write={tmp_path / 'no'}", f"--weights={weights}", "--depth=50")
    assert (code, out) == (1, "") and "is a ResNet-18 of width 1: leave out --depth and --width" in err
    assert not (tmp_path / "no").exists()
    code, out, err = run(f"--write={tmp_path / 'c'}", f"--weights={weights}")
    config = tmp_path / "c" / "mask_rcnn_R_18_FPN_1x.yaml"
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == str(config) and "nothing found" in out.splitlines()[3]
    code, out, err = run(f"--check={config}", f"--weights={weights}")
    assert (code, out, err) == (0, "nothing found that would cost points\n", "")

    write_pkl(tmp_path / "other.pkl", state(18, res2=64))
    code, out, err = run(f"--check={config}", f"--weights={tmp_path / 'other.pkl'}")
    assert (code, err) == (1, "") and "other weights would be loaded than those checked" in out

    mine = config.read_text()
    code, out, err = run(f"--write={tmp_path / 'c'}", f"--weights={weights}")
    assert (code, out) == (1, "") and "exists; remove it, or choose another folder" in err
    assert config.read_text() == mine

    config.write_text(config.read_text().replace("FORMAT: RGB", "FORMAT: BGR"))
    code, out, err = run(f"--check={config}")
    assert (code, err) == (1, "")
    assert len(out.splitlines()) == 1 and out.startswith("error: INPUT.FORMAT is 'BGR', wanted 'RGB'")


def test_mistakes_at_the_command_line_are_one_line(tmp_path):
    code, out, err = run(f"--check={tmp_path / 'no.yaml'}")
    assert (code, out) == (1, "") and len(err.splitlines()) == 1 and "no.yaml" in err
    code, out, err = run(f"--write={tmp_path}")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and "--weights=FILE.pkl" in err
