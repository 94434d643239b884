"""Names what in a Detectron2 config would silently cost points with our weights.

Detectron2's defaults suit Caffe's ResNets: BGR, a std of 1, frozen statistics, the stride in the 1x1. A config that
keeps them trains without a warning and ends some points lower. Wanted is the protocol of the paper's Tables 2 to 5.
"""

import ast
import os
import reprlib
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from univip_jax.common.errors import UserError
from univip_jax.export.detectron2.configs import read_exported, resnet_keys

PIXEL_MEAN = [123.675, 116.28, 103.53]  # RGB
PIXEL_STD = [58.395, 57.12, 57.375]
_SYNC_NORMS = ("SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")  # any of them counts as SyncBN


class Finding(NamedTuple):
    """One value of a config that costs points; `is_default`: the config leaves Detectron2's default."""

    key: str
    value: Any
    is_default: bool
    wanted: Any
    reason: str
    severity: str = "error"  # or warning

    def __str__(self) -> str:
        shown = reprlib.repr(self.value)  # aliases in YAML can make the whole exponentially long
        default = " (Detectron2's default)" if self.is_default else ""
        return f"{self.severity}: {self.key} is {shown}{default}, wanted {self.wanted!r}: {self.reason}"


class Rule(NamedTuple):
    """The value that a key should have; `part` is the key that switches on what the rule is about."""

    key: str
    default: Any
    wanted: Any
    reason: str
    severity: str = "error"
    part: str = ""


_NEW = "new layers need batch norm to match the scale of self-supervised features"
RULES = (
    Rule("INPUT.FORMAT", "BGR", "RGB", "the backbone learned on RGB; in BGR its first layer sees red for blue"),
    Rule("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675], PIXEL_MEAN, "the backbone learned with this mean, in RGB"),
    Rule("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], PIXEL_STD, "the backbone learned with this std, in RGB"),
    Rule("MODEL.RESNETS.NORM", "FrozenBN", "SyncBN", "batch norm must keep training, over the batch of all GPUs"),
    Rule("MODEL.RESNETS.STRIDE_IN_1X1", True, False, "our weights have the stride in the 3x3 convolution"),
    Rule("MODEL.RESNETS.NUM_GROUPS", 1, 1, "our convolutions have no groups"),
    Rule("MODEL.RESNETS.RES5_DILATION", 1, 1, "our last stage has a stride and no dilation"),
    Rule("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False] * 4, [False] * 4, "our convolutions are not deformable"),
    Rule("MODEL.BACKBONE.FREEZE_AT", 2, 0, "the stem and the first stages would not be fine-tuned"),
    Rule("MODEL.FPN.NORM", "", "SyncBN", f"FPN: {_NEW}", part="MODEL.BACKBONE.NAME"),
    Rule("MODEL.ROI_BOX_HEAD.NORM", "", "SyncBN", f"box head: {_NEW}", part="MODEL.BACKBONE.NAME"),
    Rule("MODEL.ROI_MASK_HEAD.NORM", "", "SyncBN", f"mask head: {_NEW}", part="MODEL.MASK_ON"),
    Rule("MODEL.BACKBONE.NAME", "build_resnet_backbone", "build_resnet_fpn_backbone", "the protocol is FPN", "warning"),
    Rule("MODEL.MASK_ON", False, True, "the protocol is Mask R-CNN; boxes gain from learning masks", "warning"),
    Rule("MODEL.ROI_BOX_HEAD.NUM_CONV", 0, 4, "the box head's batch norm sits in its convolutions", "warning"),
    Rule("MODEL.ROI_BOX_HEAD.NUM_FC", 0, 1, "the protocol's box head is 4 conv + 1 fc", "warning"),
    Rule("INPUT.MIN_SIZE_TRAIN", (800,), (640, 672, 704, 736, 768, 800), "the protocol's range of sizes", "warning"),
    Rule("TEST.PRECISE_BN.ENABLED", False, True, "the test would use lagging averages of the statistics", "warning"),
    Rule("VERSION", 2, 2, "older configs have other keys, which are not read here", "warning"),
)
DEFAULTS = {rule.key: rule.default for rule in RULES} | {
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.IMS_PER_BATCH": 16,
}


class Config(NamedTuple):
    """A config file, then its bases; the first document with a key wins."""

    documents: list[dict]

    def look_up(self, key: str) -> tuple[Any, bool]:
        """A key's value, decoded as Detectron2 does ("(640, 672)" is a tuple), and whether it is the default."""
        for document in self.documents:
            value: Any = document
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value is None:
                continue
            if isinstance(value, str) and len(value) < 1000:
                with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # a plain word
                    value = ast.literal_eval(value)
            return value, False
        return DEFAULTS[key], True

    def finding(self, key: str, wanted: Any, reason: str, severity: str = "error") -> Finding:
        """The finding that a key should have another value."""
        return Finding(key, *self.look_up(key), wanted, reason, severity)


def _read(path: Path) -> tuple[Config, list[Finding]]:
    """A config, and a finding for every base that is not on this disk."""
    documents, missing, seen, waiting = [], [], set(), [path]
    while waiting:
        path = waiting.pop()  # the last of several bases wins
        seen.add(path.resolve())
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        except Exception as error:  # PyYAML raises whatever the parsing of a value raises
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path} is no plain YAML config ({reason:.200}); tags, whose code Detectron2 would run, and "
                "LazyConfigs in Python are not read"
            ) from None
        bases = document.get("_BASE_", []) if isinstance(document, dict) else None
        bases = [bases] if isinstance(bases, str) else bases
        if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
            raise UserError(f"{path} is no config: it holds no keys and values, or its _BASE_ is no name of a file")
        documents.append(document)
        for base in bases:
            target = path.parent / os.path.expanduser(base)
            if "://" in base or not target.is_file():
                reason = "not on this disk: Detectron2's defaults stand in for its values here"
                missing.append(Finding("_BASE_", base, False, "a file beside the config", reason, "warning"))
            elif target.resolve() not in seen:
                waiting.append(target)
    return Config(documents), missing


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value does what the wanted one does, whatever its type."""
    if wanted == "SyncBN":
        return isinstance(value, str) and value in _SYNC_NORMS
    if not isinstance(wanted, list | tuple):
        return value == wanted
    if not isinstance(value, list | tuple) or not value or not all(isinstance(v, int | float) for v in value):
        return False
    if isinstance(wanted, tuple):  # sizes: the range counts
        return (min(value), max(value)) == (min(wanted), max(wanted))
    return len(value) == len(wanted) and np.allclose(value, wanted, rtol=0, atol=0.01)


def _check_rules(config: Config) -> list[Finding]:
    findings = []
    for rule in RULES:
        no_1x1 = rule.key == "MODEL.RESNETS.STRIDE_IN_1X1" and config.look_up("MODEL.RESNETS.DEPTH")[0] in (18, 34)
        if no_1x1 or _fits(config.look_up(rule.key)[0], rule.wanted):
            continue
        switch = config.look_up(rule.part)[0] if rule.part else True
        is_built = "fpn" in switch if isinstance(switch, str) else bool(switch)
        findings.append(config.finding(rule.key, rule.wanted, rule.reason, rule.severity if is_built else "warning"))
    rate, batch = config.look_up("SOLVER.BASE_LR")[0], config.look_up("SOLVER.IMS_PER_BATCH")[0]
    wanted = round(0.02 * batch / 16, 6) if isinstance(batch, int) else 0.02
    if not isinstance(rate, int | float) or not np.isclose(rate, wanted, rtol=0.01):
        reason = f"the protocol's rate for SOLVER.IMS_PER_BATCH {reprlib.repr(batch)}"
        findings.append(config.finding("SOLVER.BASE_LR", wanted, reason, "warning"))
    return findings


def _check_name(config: Config, weights: Path | None) -> list[Finding]:
    """MODEL.WEIGHTS as a name."""
    named = str(config.look_up("MODEL.WEIGHTS")[0])
    wanted, severity = weights.name if weights else "the exported .pkl", "error"
    if not named:
        reason = "the backbone would start untrained"
    elif named.startswith("detectron2://"):
        reason = "these are not our weights"
    elif weights and Path(named).name != wanted:
        reason = "other weights would be loaded than those checked"
    elif not named.endswith(".pkl"):
        reason, severity = "Detectron2 chooses its reader by the name", "warning"
    else:
        return []
    return [config.finding("MODEL.WEIGHTS", wanted, reason, severity)]


def check_config(path: Path, weights: Path | None = None) -> list[Finding]:
    """Names what in a Detectron2 YAML config would cost points with our weights; runs nothing of the config.

    Args:
      path: the config; a `_BASE_` that is not on this disk is a finding.
      weights: the exported .pkl, whose depth and width the config must have.

    Returns:
      Errors, then warnings. Raises UserError where a file cannot be read, or Detectron2 builds no such backbone.
    """
    config, findings = _read(path)
    findings += _check_rules(config) + _check_name(config, weights)
    if weights:
        reason = "the weights have this depth and width; arrays of another shape start untrained"
        for name, wanted in resnet_keys(read_exported(weights)).items():
            if config.look_up(key := f"MODEL.RESNETS.{name}")[0] != wanted:
                findings.append(config.finding(key, wanted, reason))
    return sorted(findings, key=lambda finding: finding.severity)
