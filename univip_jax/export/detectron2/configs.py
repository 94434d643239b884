"""Mask R-CNN on COCO by the paper's protocol: copies of this folder's YAML files for one exported backbone."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import UserError
from univip_jax.models.mask_rcnn import MaskRCNN
from univip_jax.models.resnet import DEPTHS, ResNet
from univip_jax.weights.files import read_backbone

FILES = ("1x.yaml", "2x.yaml", "6x.yaml", "base.yaml")
NOT_BUILT = ("resnet10", "resnet200")  # by Detectron2, nor by torchvision


def resnet_keys(net: ResNet) -> dict[str, int]:
    """The keys of MODEL.RESNETS that describe a backbone; UserError where Detectron2 cannot build it."""
    bottleneck, channels = DEPTHS[net.variant][1], int(64 * net.width)
    name = f"a {net.variant} of width {net.width:g} with stem={net.stem}"
    if net.variant in NOT_BUILT or net.stem != "imagenet":
        built = ", ".join(depth for depth in DEPTHS if depth not in NOT_BUILT)
        raise UserError(f"Detectron2 cannot build {name}; it builds {built} with stem=imagenet")
    if not bottleneck and net.width != 1:
        raise UserError(f"Detectron2 cannot build {name}: only resnet50 and deeper may have a width other than 1")
    return {
        "DEPTH": int(net.variant.removeprefix("resnet")),
        "STEM_OUT_CHANNELS": channels,
        "RES2_OUT_CHANNELS": channels * (4 if bottleneck else 1),
        "WIDTH_PER_GROUP": channels,
    }


def read_exported(weights: Path) -> ResNet:
    """The backbone in a file of `--format=detectron2`; UserError for another file."""
    if weights.suffix != ".pkl":
        raise UserError(f"--weights={weights} is no .pkl: write one by python -m univip_jax.export --format=detectron2")
    return read_backbone(weights).net


def write_configs(folder: Path, weights: str, net: ResNet) -> list[Path]:
    """Copies the YAML files, with this backbone's keys and its MODEL.WEIGHTS in base.yaml; returns their paths.

    Raises UserError where Detectron2 cannot build the backbone, or a file exists or cannot be written.
    """
    values = {"WEIGHTS": json.dumps(weights)} | resnet_keys(net)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            text = Path(__file__).with_name(name).read_text(encoding="utf-8")
            for key, value in values.items():
                text = re.sub(rf"(?m)^( +{key}: ).*$", lambda found, value=value: f"{found[1]}{value}", text)
            _write_new(folder / name, text)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise UserError(f"cannot write {reason}; remove it, or choose another folder") from None
    return [folder / name for name in FILES]


def _write_new(path: Path, text: str) -> None:
    """Raises FileExistsError where it exists."""
    if not is_bucket(path):
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
        return
    try:
        path.fs.pipe_file(str(path), text.encode(), mode="create")
    except FileExistsError as error:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error


def named_in_config(weights: Path) -> str:
    """The file as MODEL.WEIGHTS: its path; of a bucket its name, for a copy where Detectron2 runs, which reads none."""
    return weights.name if is_bucket(weights) else str(weights.resolve())


def write_detector_config(path: Path, weights: str, net: MaskRCNN, facts: dict[str, Any]) -> None:
    """Writes the config of the schedule 1x with this detector's layers, and the numbers of its `facts` at test.

    Raises UserError where Detectron2 cannot build the backbone.
    """
    base, schedule = (
        yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8")) for name in ("base.yaml", "1x.yaml")
    )
    config = base | {"SOLVER": base["SOLVER"] | schedule["SOLVER"]}
    convs = 4 if net.box_head == "4conv1fc" else 0
    norms = {True: "SyncBN", False: ""}
    values = {
        "MODEL.WEIGHTS": weights,
        "MODEL.MASK_ON": net.masks,
        **{f"MODEL.RESNETS.{key}": value for key, value in resnet_keys(net.backbone).items()},
        "MODEL.RESNETS.STRIDE_IN_1X1": net.backbone.stride_in_1x1,
        "MODEL.FPN.OUT_CHANNELS": net.channels,
        "MODEL.FPN.NORM": norms[net.norm],
        "MODEL.ROI_HEADS.NUM_CLASSES": net.num_classes,
        "MODEL.ROI_BOX_HEAD.NUM_CONV": convs,
        "MODEL.ROI_BOX_HEAD.CONV_DIM": net.channels,
        "MODEL.ROI_BOX_HEAD.NUM_FC": 1 if convs else 2,
        "MODEL.ROI_BOX_HEAD.FC_DIM": net.head_width,
        "MODEL.ROI_BOX_HEAD.NORM": norms[convs > 0],
        "MODEL.ROI_MASK_HEAD.CONV_DIM": net.channels,
        "MODEL.ROI_MASK_HEAD.NORM": norms[convs > 0],
        **_at_test(facts),
    }
    for key, value in values.items():
        *sections, last = key.split(".")
        place = config
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    if net.num_classes != 80:
        config["DATASETS"] = {"TRAIN": [], "TEST": []}  # register your own, in the order of the classes
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _at_test(facts: dict[str, Any]) -> dict[str, Any]:
    """Keys for what a file of ours says of its detector and input."""
    detector, given = facts.get("detector", {}), facts.get("input", {})
    keys = {
        "MODEL.RPN.PRE_NMS_TOPK_TEST": (detector.get("rpn_candidates") or (None, None))[1],
        "MODEL.RPN.POST_NMS_TOPK_TEST": detector.get("proposals"),
        "MODEL.RPN.NMS_THRESH": detector.get("rpn_nms"),
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": detector.get("score_threshold"),
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": detector.get("test_nms"),
        "TEST.DETECTIONS_PER_IMAGE": detector.get("detections"),
        "INPUT.MIN_SIZE_TEST": given.get("test_short_side"),
        "INPUT.MAX_SIZE_TEST": given.get("max_side"),
    }
    return {key: value for key, value in keys.items() if value is not None}
