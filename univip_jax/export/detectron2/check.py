"""Names what in a Detectron2 config would silently cost points with our weights.

Detectron2's defaults suit Caffe's ResNets: BGR, a std of 1, frozen statistics, the stride in the 1x1. A config that
keeps them trains without a warning and ends some points lower. Wanted is the protocol of the paper's Tables 2 to 5.
"""

import ast
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import UserError
from univip_jax.export.detectron2.configs import read_exported, resnet_keys
from univip_jax.models.resnet import ResNet


class Finding(NamedTuple):
    """One value of a config that costs points; `is_default`: the config leaves Detectron2's default."""

    key: str
    value: Any
    wanted: Any
    reason: str
    severity: str = "error"  # or warning
    is_default: bool = True

    def __str__(self) -> str:
        default = " (Detectron2's default)" if self.is_default else ""
        return f"{self.severity}: {self.key} is {self.value!r}{default}, wanted {self.wanted!r}: {self.reason}"


_NEW = "new layers need batch norm to match the scale of self-supervised features"
# Each key with Detectron2's default: where the default is not wanted, the finding of a config without the key.
RULES = (
    Finding("INPUT.FORMAT", "BGR", "RGB", "the backbone learned on RGB; in BGR its first layer sees red for blue"),
    Finding("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675], [123.675, 116.28, 103.53], "the backbone's mean, in RGB"),
    Finding("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], [58.395, 57.12, 57.375], "the backbone's std, in RGB"),
    Finding("MODEL.RESNETS.NORM", "FrozenBN", "SyncBN", "batch norm must keep training, over the batch of all GPUs"),
    Finding("MODEL.RESNETS.STRIDE_IN_1X1", True, False, "our weights have the stride in the 3x3 convolution"),
    Finding("MODEL.RESNETS.NUM_GROUPS", 1, 1, "our convolutions have no groups"),
    Finding("MODEL.RESNETS.RES5_DILATION", 1, 1, "our last stage has a stride and no dilation"),
    Finding("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False] * 4, [False] * 4, "our convolutions are not deformable"),
    Finding("MODEL.BACKBONE.FREEZE_AT", 2, 0, "the stem and the first stages would not be fine-tuned"),
    Finding("MODEL.FPN.NORM", "", "SyncBN", f"FPN: {_NEW}"),
    Finding("MODEL.ROI_BOX_HEAD.NORM", "", "SyncBN", f"box head: {_NEW}"),
    Finding("MODEL.ROI_MASK_HEAD.NORM", "", "SyncBN", f"mask head: {_NEW}"),
    Finding("MODEL.BACKBONE.NAME", "build_resnet_backbone", "build_resnet_fpn_backbone", "protocol: FPN", "warning"),
    Finding("MODEL.MASK_ON", False, True, "protocol: Mask R-CNN; boxes gain from learning masks", "warning"),
    Finding("MODEL.ROI_BOX_HEAD.NUM_CONV", 0, 4, "the box head's batch norm sits in its convolutions", "warning"),
    Finding("MODEL.ROI_BOX_HEAD.NUM_FC", 0, 1, "protocol: a box head of 4 conv + 1 fc", "warning"),
    Finding("INPUT.MIN_SIZE_TRAIN", (800,), (640, 672, 704, 736, 768, 800), "protocol: this range of sizes", "warning"),
    Finding("TEST.PRECISE_BN.ENABLED", False, True, "the test would use lagging averages of the statistics", "warning"),
    Finding("VERSION", 2, 2, "older configs have other keys, which are not read here", "warning"),
)
DEFAULTS = {rule.key: rule.value for rule in RULES}
DEFAULTS |= {"MODEL.WEIGHTS": "", "SOLVER.BASE_LR": 0.001, "SOLVER.IMS_PER_BATCH": 16}
DEFAULTS |= {f"MODEL.RESNETS.{key}": value for key, value in resnet_keys(ResNet("resnet50")).items()}


def _read(path: Path) -> tuple[list[dict], list[Finding]]:
    """A config, then its bases, of which the first with a key wins; and a finding for every base not on this disk."""
    documents, missing, seen, waiting = [], [], set(), [path]
    while waiting:
        path = waiting.pop()  # the last of several bases wins
        seen.add(path.resolve())
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            bases = document.get("_BASE_", []) if isinstance(document, dict) else None
            bases = [bases] if isinstance(bases, str) else bases
            if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
                raise ValueError("it holds no keys and values, or its _BASE_ is no name of a file")
        except UserError:  # of a bucket
            raise
        except Exception as error:  # PyYAML raises whatever the parsing of a value raises
            reason = " ".join(str(error).split())
            raise UserError(
                f"cannot read {path} as plain YAML ({reason:.200}); tags, whose code Detectron2 would run, and "
                "LazyConfigs in Python are not read"
            ) from None
        documents.append(document)
        for base in bases:
            target = path.parent / os.path.expanduser(base)
            target = target.resolve() if is_bucket(target) else target  # a bucket knows no ..
            if "://" in base or not target.is_file():
                reason = "not on this disk: Detectron2's defaults stand in for its values here"
                missing.append(Finding("_BASE_", base, "a file beside the config", reason, "warning", False))
            elif target.resolve() not in seen:
                waiting.append(target)
    return documents, missing


def _look_up(documents: list[dict], key: str) -> Any:
    """A key's value, decoded as Detectron2 does ("(640, 672)" is a tuple); None where no document has it."""
    for document in documents:
        value: Any = document
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            with suppress(Exception):  # a plain word
                return ast.literal_eval(value) if isinstance(value, str) else value
            return value
    return None


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value does what the wanted one does, whatever its type."""
    if wanted == "SyncBN":
        return value in ("SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
    if isinstance(wanted, str | int):
        return value == wanted
    try:
        found = np.asarray(value, float)
    except (TypeError, ValueError, OverflowError):
        return False
    if isinstance(wanted, tuple):  # sizes: the range counts
        return found.size > 0 and (found.min(), found.max()) == (min(wanted), max(wanted))
    return found.shape == np.shape(wanted) and np.allclose(found, wanted, rtol=1e-3)


def check_config(path: Path, weights: Path | None = None) -> list[Finding]:
    """Names what in a Detectron2 YAML config would cost points: errors, then warnings; runs nothing of the config.

    `weights` is the exported .pkl, whose depth and width the config must have. Raises UserError where a file cannot be
    read, or Detectron2 builds no such backbone.
    """
    documents, findings = _read(path)
    found = {key: value for key in DEFAULTS if (value := _look_up(documents, key)) is not None}
    config = DEFAULTS | found
    batch = config["SOLVER.IMS_PER_BATCH"]
    rate = round(0.02 * batch / 16, 6) if isinstance(batch, int) else 0.02
    rules = [*RULES, Finding("SOLVER.BASE_LR", 0.001, rate, f"protocol: this rate for a batch of {batch!r}", "warning")]
    if weights:
        reason = "the weights have this depth and width; arrays of another shape start untrained"
        keys = resnet_keys(read_exported(weights))
        rules += [Finding(f"MODEL.RESNETS.{key}", None, wanted, reason) for key, wanted in keys.items()]
    has_fpn = "fpn" in str(config["MODEL.BACKBONE.NAME"])
    is_built = {
        "MODEL.FPN.NORM": has_fpn,
        "MODEL.ROI_BOX_HEAD.NORM": has_fpn,
        "MODEL.ROI_MASK_HEAD.NORM": config["MODEL.MASK_ON"],
        "MODEL.RESNETS.STRIDE_IN_1X1": config["MODEL.RESNETS.DEPTH"] not in (18, 34),
    }
    for rule in rules:
        if is_built.get(rule.key, True) and not _fits(config[rule.key], rule.wanted):
            findings.append(rule._replace(value=config[rule.key], is_default=rule.key not in found))
    named, wanted = str(config["MODEL.WEIGHTS"]), weights.name if weights else "the exported .pkl"
    if "://" in named or not named.endswith(".pkl") or (weights and Path(named).name != wanted):
        reason = "the backbone would start from other weights, or untrained"
        findings.append(Finding("MODEL.WEIGHTS", named, wanted, reason, is_default="MODEL.WEIGHTS" not in found))
    return sorted(findings, key=lambda finding: finding.severity)
