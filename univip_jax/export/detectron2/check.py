"""What in a Detectron2 config would silently cost points with our weights.

Detectron2's defaults suit Caffe's ResNets: BGR, a deviation of 1, frozen statistics, the stride in the 1x1. A config
that leaves them trains without a word and ends some points lower. Wanted: the protocol of the paper's Tables 2-5.
"""

import ast
import os
import reprlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from univip_jax.common.errors import UserError
from univip_jax.weights.detectron2 import BLOCKS, Widths, depth_of, misfits, widths_of

PIXEL_MEAN = [123.675, 116.28, 103.53]  # RGB
PIXEL_STD = [58.395, 57.12, 57.375]
MIN_SIZES = (640, 672, 704, 736, 768, 800)
_SYNC_NORMS = ("SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")  # any of them counts as SyncBN


class Finding(NamedTuple):
    """One value of a config that costs points; `is_default` where the config leaves Detectron2's own."""

    key: str
    value: Any
    is_default: bool
    wanted: Any
    reason: str
    severity: str  # error or warning

    def __str__(self) -> str:
        shown = reprlib.repr(self.value)  # aliases in YAML can make the whole exponentially long
        default = " (Detectron2's default)" if self.is_default else ""
        return f"{self.severity}: {self.key} is {shown}{default}, wanted {self.wanted!r}: {self.reason}"


class Rule(NamedTuple):
    """The value a key should have; `part` names the key that turns on what the rule is about."""

    key: str
    default: Any
    wanted: Any
    reason: str
    severity: str = "error"
    part: str = ""


_NEW = "new layers need batch norm to meet the magnitudes of self-supervised features"
RULES = (
    Rule("INPUT.FORMAT", "BGR", "RGB", "the backbone learned on RGB; in BGR its first layer sees red for blue"),
    Rule("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675], PIXEL_MEAN, "the backbone learned with this mean, in RGB"),
    Rule("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], PIXEL_STD, "the backbone learned with this deviation, in RGB"),
    Rule("MODEL.RESNETS.NORM", "FrozenBN", "SyncBN", "statistics and scales must train on, over the batch of all GPUs"),
    Rule("MODEL.RESNETS.STRIDE_IN_1X1", True, False, "our weights have the stride in the 3x3 convolution"),
    Rule("MODEL.RESNETS.NUM_GROUPS", 1, 1, "our convolutions have no groups"),
    Rule("MODEL.RESNETS.RES5_DILATION", 1, 1, "our last stage has no dilation, and another stride"),
    Rule("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False] * 4, [False] * 4, "our convolutions are not deformable"),
    Rule("MODEL.BACKBONE.FREEZE_AT", 2, 0, "the stem and the first stages would not be fine-tuned"),
    Rule("MODEL.FPN.NORM", "", "SyncBN", f"FPN: {_NEW}", part="MODEL.BACKBONE.NAME"),
    Rule("MODEL.ROI_BOX_HEAD.NORM", "", "SyncBN", f"box head: {_NEW}", part="MODEL.BACKBONE.NAME"),
    Rule("MODEL.ROI_MASK_HEAD.NORM", "", "SyncBN", f"mask head: {_NEW}", part="MODEL.MASK_ON"),
    Rule("MODEL.BACKBONE.NAME", "build_resnet_backbone", "build_resnet_fpn_backbone", "the protocol is FPN", "warning"),
    Rule("MODEL.MASK_ON", False, True, "the protocol is Mask R-CNN; boxes gain from learning masks", "warning"),
    Rule("MODEL.ROI_BOX_HEAD.NUM_CONV", 0, 4, "the box head's batch norm sits in its convolutions", "warning"),
    Rule("MODEL.ROI_BOX_HEAD.NUM_FC", 0, 1, "the protocol's box head is 4 conv + 1 fc", "warning"),
    Rule("INPUT.MIN_SIZE_TRAIN", (800,), MIN_SIZES, "the protocol draws the short side from 640 to 800", "warning"),
    Rule("TEST.PRECISE_BN.ENABLED", False, True, "tests would use lagging averages of the statistics", "warning"),
    Rule("VERSION", 2, 2, "older configs have other keys, which are not read here", "warning"),
)
# In the order of `Widths`.
_WIDTHS = ("MODEL.RESNETS.STEM_OUT_CHANNELS", "MODEL.RESNETS.RES2_OUT_CHANNELS", "MODEL.RESNETS.WIDTH_PER_GROUP")
DEFAULTS = {rule.key: rule.default for rule in RULES} | dict(zip(_WIDTHS, (64, 256, 64), strict=True))
DEFAULTS |= {"MODEL.WEIGHTS": "", "MODEL.RESNETS.DEPTH": 50, "SOLVER.BASE_LR": 0.001, "SOLVER.IMS_PER_BATCH": 16}


def _load(path: Path) -> dict:
    """One YAML file, plain values only."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except yaml.constructor.ConstructorError as error:
        where = f"{path}, line {error.problem_mark.line + 1}" if error.problem_mark else str(path)
        if "python/" in str(error.problem):
            raise UserError(
                f"{where} has a !!python tag, which makes Detectron2 run code; write the value in plain YAML"
            ) from None
        raise UserError(f"{where}: {error.problem}") from None
    except Exception as error:  # PyYAML raises whatever the parsing of a value raises
        line = " ".join(str(error).split())
        raise UserError(f"{path} is no YAML config ({line:.200}); LazyConfigs in Python are not read") from None
    if not isinstance(found, dict | None):
        raise UserError(f"{path} is no config: it holds a {type(found).__name__}, not keys and values")
    return found or {}


def _read(path: Path, below: tuple[Path, ...] = ()) -> tuple[list[dict], list[str]]:
    """A file and its bases, those that win first; and bases that are not on this disk."""
    if path.resolve() in below:
        raise UserError(f"{path} is its own _BASE_")
    document = _load(path)
    bases = document.pop("_BASE_", [])
    documents, unread = [document], []
    for base in reversed(bases if isinstance(bases, list) else [bases]):  # the last of several wins
        if not isinstance(base, str):
            raise UserError(f"{path}: _BASE_ is {base!r}, not the name of a file")
        target = path.parent / os.path.expanduser(base)
        if "://" in base or not target.is_file():
            unread.append(base)
            continue
        more, missing = _read(target, (*below, path.resolve()))
        documents += more
        unread += missing
    return documents, unread


def _look_up(documents: list[dict], key: str) -> tuple[Any, bool]:
    """A key's value, decoded as Detectron2 does ("(640, 672)" is a tuple), and whether it is Detectron2's default."""
    for document in documents:
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


def _whole(documents: list[dict], key: str) -> int:
    """A key's whole number."""
    value, _ = _look_up(documents, key)
    if not isinstance(value, int):
        raise UserError(f"{key} is {value!r}, not a whole number")
    return value


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value is as good as the wanted one, whatever its type."""
    if wanted == "SyncBN":
        return isinstance(value, str) and value in _SYNC_NORMS
    if isinstance(wanted, list | tuple):
        numbers = isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value)
        if isinstance(wanted, tuple):  # sizes: the range counts
            return numbers and len(value) > 0 and (min(value), max(value)) == (min(wanted), max(wanted))
        return numbers and len(value) == len(wanted) and np.allclose(value, wanted, rtol=0, atol=0.01)
    return value == wanted


def _check_rules(documents: list[dict]) -> list[Finding]:
    """What `RULES` find."""
    findings = []
    bottleneck = BLOCKS.get(_whole(documents, "MODEL.RESNETS.DEPTH"), ((), True))[1]
    for rule in RULES:
        value, is_default = _look_up(documents, rule.key)
        if _fits(value, rule.wanted) or (rule.key == "MODEL.RESNETS.STRIDE_IN_1X1" and not bottleneck):
            continue
        reason, severity = rule.reason, rule.severity
        if isinstance(rule.wanted, list) and isinstance(value, list | tuple) and _fits(value[::-1], rule.wanted):
            reason += "; this is the order of BGR"
        on = _look_up(documents, rule.part)[0] if rule.part else True
        if not on or (isinstance(on, str) and "fpn" not in on):
            severity = "warning"  # the part is not built at all
        findings.append(Finding(rule.key, value, is_default, rule.wanted, reason, severity))
    return findings


def _check_solver(documents: list[dict]) -> list[Finding]:
    """The learning rate for the batch."""
    (rate, is_default), batch = _look_up(documents, "SOLVER.BASE_LR"), _whole(documents, "SOLVER.IMS_PER_BATCH")
    wanted = round(0.02 * batch / 16, 6)
    if isinstance(rate, int | float) and np.isclose(rate, wanted, rtol=0.01):
        return []
    reason = f"the protocol's rate for SOLVER.IMS_PER_BATCH {batch}; another ends elsewhere"
    return [Finding("SOLVER.BASE_LR", rate, is_default, wanted, reason, "warning")]


def _check_backbone(documents: list[dict]) -> list[Finding]:
    """MODEL.WEIGHTS as a name, and depths that Detectron2 does not build."""
    findings = []
    weights, is_default = _look_up(documents, "MODEL.WEIGHTS")
    reason, severity = "", "error"
    if not weights:
        reason = "the backbone would start from nothing"
    elif str(weights).startswith("detectron2://"):
        reason = "these are not our weights"
    elif not str(weights).endswith(".pkl"):
        reason, severity = "Detectron2 chooses how to read a file by its name", "warning"
    if reason:
        findings.append(Finding("MODEL.WEIGHTS", weights, is_default, "the exported .pkl", reason, severity))
    depth = _whole(documents, "MODEL.RESNETS.DEPTH")
    if depth not in BLOCKS:
        findings.append(Finding("MODEL.RESNETS.DEPTH", depth, False, tuple(BLOCKS), "Detectron2 builds these", "error"))
    res2, is_default = _look_up(documents, "MODEL.RESNETS.RES2_OUT_CHANNELS")
    if depth in (18, 34) and res2 != 64:
        reason = f"Detectron2 builds ResNet-{depth} with 64 alone"
        findings.append(Finding("MODEL.RESNETS.RES2_OUT_CHANNELS", res2, is_default, 64, reason, "error"))
    return findings


def _check_arrays(documents: list[dict], weights: Collection[str]) -> list[Finding]:
    """Arrays that would not load, by the names of a file or, where a mapping is given, by shape too."""
    names = {name for name in weights if not name.endswith(".num_batches_tracked")}
    if any(name.startswith("layer1.") for name in names):
        reason = "no name of torchvision's loads; write the file by --format=detectron2"
        return [Finding("MODEL.WEIGHTS", min(names), False, "res2.0.conv1.weight, ...", reason, "error")]
    depth, fits = _whole(documents, "MODEL.RESNETS.DEPTH"), depth_of(names)
    if fits not in (None, depth):
        is_default = _look_up(documents, "MODEL.RESNETS.DEPTH")[1]
        reason = f"the weights are a ResNet-{fits}'s; the rest would start from nothing"
        return [Finding("MODEL.RESNETS.DEPTH", depth, is_default, fits, reason, "error")]
    if depth not in BLOCKS:
        return []
    shapes = {name: np.shape(array) for name, array in weights.items()} if isinstance(weights, Mapping) else {}
    built = Widths(*(_whole(documents, key) for key in _WIDTHS))
    reason = "the weights are this wide; else they do not load"
    findings = [
        Finding(key, now, _look_up(documents, key)[1], wanted, reason, "error")
        for key, now, wanted in zip(_WIDTHS, built, widths_of(shapes, built), strict=True)
        if now != wanted
    ]
    return findings or [
        Finding("MODEL.WEIGHTS", listed, False, *rest) for listed, *rest in misfits(depth, built, names, shapes)
    ]


def check_config(
    path: str | Path, weights_keys: Collection[str] | None = None, weights_file: str | None = None
) -> list[Finding]:
    """What in a Detectron2 YAML config would cost points with our weights; nothing of it is run.

    Args:
      path: the config; its `_BASE_` is read where it is on this disk, and named where not.
      weights_keys: the names in the weights file (Detectron2's); as a mapping to arrays, as `read_pkl` gives, widths
        and shapes are compared too.
      weights_file: its name, which MODEL.WEIGHTS should have.

    Returns:
      Errors first, in the order of `RULES`. Raises UserError where a file cannot be read.
    """
    documents, unread = _read(Path(path))
    reason = "not on this disk: what it sets counts as Detectron2's default here"
    findings = [Finding("_BASE_", base, False, "a file beside the config", reason, "warning") for base in unread]
    findings += _check_rules(documents) + _check_backbone(documents) + _check_solver(documents)
    named = _look_up(documents, "MODEL.WEIGHTS")[0]
    if weights_file and named and Path(str(named)).name != Path(weights_file).name:
        reason = "other weights would be loaded than those checked"
        findings.append(Finding("MODEL.WEIGHTS", named, False, Path(weights_file).name, reason, "error"))
    if weights_keys is not None:
        findings += _check_arrays(documents, weights_keys)
    return sorted(findings, key=lambda finding: finding.severity)
