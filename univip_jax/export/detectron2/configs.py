"""Mask R-CNN on COCO by the paper's protocol, as Detectron2's config files."""

from pathlib import Path

import yaml

from univip_jax.common.errors import UserError
from univip_jax.export.detectron2.check import MIN_SIZES, PIXEL_MEAN, PIXEL_STD
from univip_jax.weights.detectron2 import backbone_shapes

# Steps, and the steps at which the rate falls to a tenth. Beyond 2x the falls stay 60k and 20k before the end
# (He et al. 2019, "Rethinking ImageNet Pre-training").
SCHEDULES = {
    "1x": (90_000, [60_000, 80_000]),
    "2x": (180_000, [120_000, 160_000]),
    "6x": (540_000, [480_000, 520_000]),
}
_STAGES = ("res2", "res3", "res4", "res5")


def _check_backbone(weights: str, depth: int, width: float) -> None:
    """UserError for a backbone that Detectron2 cannot build or load."""
    if not weights.endswith(".pkl"):
        raise UserError(f"weights={weights!r} must name a .pkl file: Detectron2 chooses how to read it by its name")
    backbone_shapes(depth)
    if depth in (18, 34) and width != 1:
        raise UserError(f"width={width:g}: Detectron2 builds ResNet-{depth} of width 1 alone; take depth 50 or more")
    if not 0 < width * 64 == int(width * 64):
        raise UserError(f"width={width:g} must make 64 * width a whole number above 0")


def _resnet(depth: int, width: float) -> dict:
    """MODEL.RESNETS of our backbone."""
    channels = int(64 * width)
    return {
        "DEPTH": depth,
        "NORM": "SyncBN",
        "STRIDE_IN_1X1": False,
        "OUT_FEATURES": [*_STAGES],
        "STEM_OUT_CHANNELS": channels,
        "RES2_OUT_CHANNELS": channels * (1 if depth in (18, 34) else 4),
        "WIDTH_PER_GROUP": channels,
    }


def mask_rcnn_config(schedule: str, weights: str, *, depth: int = 50, width: float = 1.0) -> dict:
    """A whole config of Mask R-CNN with FPN on COCO; what it leaves out is right by Detectron2's defaults.

    Args:
      schedule: a key of `SCHEDULES`.
      weights: the exported .pkl, as Detectron2's machine sees it.
      depth: 18, 34, 50, 101 or 152. width: multiplies the backbone's channels; 1 alone for 18 and 34.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"schedule={schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")
    _check_backbone(weights, depth, width)
    num_steps, falls = SCHEDULES[schedule]
    return {
        "VERSION": 2,
        "MODEL": {
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "WEIGHTS": weights,
            "MASK_ON": True,
            "PIXEL_MEAN": [*PIXEL_MEAN],
            "PIXEL_STD": [*PIXEL_STD],
            "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
            "RESNETS": _resnet(depth, width),
            "FPN": {"IN_FEATURES": [*_STAGES], "NORM": "SyncBN"},
            # One size a level; three shapes at each.
            "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]},
            "RPN": {
                "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
                "PRE_NMS_TOPK_TRAIN": 2000,  # of each level
                "PRE_NMS_TOPK_TEST": 1000,
                "POST_NMS_TOPK_TRAIN": 1000,  # of an image
                "POST_NMS_TOPK_TEST": 1000,
            },
            "ROI_HEADS": {"NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"], "NUM_CLASSES": 80},
            "ROI_BOX_HEAD": {
                "NAME": "FastRCNNConvFCHead",
                "NUM_CONV": 4,
                "NUM_FC": 1,
                "NORM": "SyncBN",
                "POOLER_RESOLUTION": 7,
            },
            "ROI_MASK_HEAD": {
                "NAME": "MaskRCNNConvUpsampleHead",
                "NUM_CONV": 4,
                "NORM": "SyncBN",
                "POOLER_RESOLUTION": 14,
            },
        },
        "DATASETS": {"TRAIN": ["coco_2017_train"], "TEST": ["coco_2017_val"]},
        "INPUT": {"FORMAT": "RGB", "MIN_SIZE_TRAIN": [*MIN_SIZES], "MIN_SIZE_TEST": 800},
        "SOLVER": {"IMS_PER_BATCH": 16, "BASE_LR": 0.02, "STEPS": [*falls], "MAX_ITER": num_steps},
        "TEST": {"PRECISE_BN": {"ENABLED": True}},
        "OUTPUT_DIR": f"./output/{_stem(schedule, depth)}",
    }


def _stem(schedule: str, depth: int) -> str:
    return f"mask_rcnn_R_{depth}_FPN_{schedule}"


def write_configs(
    folder: str | Path, weights: str, *, depth: int = 50, width: float = 1.0, place: Path | None = None
) -> list[Path]:
    """Writes a config for every schedule; arguments as `mask_rcnn_config`. Returns the files.

    Args:
      place: the folder in which the files end, where that is not `folder`.

    Raises:
      UserError: there is such a file already, or it cannot be written.
    """
    folder, paths = Path(folder), []
    configs = {s: mask_rcnn_config(s, weights, depth=depth, width=width) for s in SCHEDULES}
    for schedule, config in configs.items():
        path = folder / f"{_stem(schedule, depth)}.yaml"
        command = f"# python tools/train_net.py --num-gpus 8 --config-file {(place or folder) / path.name}\n"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=120)
            with open(path, "x", encoding="utf-8") as file:
                file.write(command + text)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; remove it, or choose another folder") from None
        paths.append(path)
    return paths
