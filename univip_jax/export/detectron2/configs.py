"""Mask R-CNN on COCO by the paper's protocol: copies of this folder's YAML files for one exported backbone."""

import json
import re
from pathlib import Path

from univip_jax.common.errors import UserError
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
            with open(folder / name, "x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise UserError(f"cannot write {reason}; remove it, or choose another folder") from None
    return [folder / name for name in FILES]
