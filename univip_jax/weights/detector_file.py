"""Whole detectors in files: ours, under our own names, and those of Detectron2 and torchvision.

No file says all. Ours holds what no shape shows in its metadata; of others' it is assumed as `read_detector` says.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save

from univip_jax.common.errors import UserError, shorten
from univip_jax.common.files import write_whole
from univip_jax.models.mask_rcnn import MaskRCNN
from univip_jax.weights.detector_dialects import DIALECTS, OURS, Dialect, from_names
from univip_jax.weights.detector_pixels import is_of_raw_pixels, to_our_pixels
from univip_jax.weights.files import read_tensors, small_stem_of
from univip_jax.weights.names import Tensors, rename, to_flat

DETECTOR = "detector.safetensors"  # in a run's folder
STRIDES = ("3x3", "1x1")  # the convolution of a bottleneck that has the stride


class DetectorFile(NamedTuple):
    """A detector of float32, its `params` and `batch_stats`, and what a file of ours says of its origin.

    `facts` hold `categories` ([{"id", "name"}, ...] by class), `detector` and `input` (fields of `DetectorSpec` and
    `InputSpec`), `dtype`, `step` and `pretrained`; they are empty for files of other projects.
    """

    net: MaskRCNN
    variables: dict[str, Any]
    facts: dict[str, Any]


def write_detector(path: Path, net: MaskRCNN, variables: Any, facts: Mapping[str, Any]) -> None:
    """Writes a detector as one file, whole or not at all; `facts` must fit into JSON.

    Raises UserError where it cannot be written.
    """
    metadata = {"stem": net.backbone.stem, "stride_in_1x1": str(net.backbone.stride_in_1x1)}  # no shape shows them
    metadata["facts"] = json.dumps(dict(facts), allow_nan=False)
    write_whole(path, save(to_flat(jax.device_get(variables)), metadata), sync=True)


def read_detector(path: Path, stride: str | None = None) -> DetectorFile:
    """The detector in a file of ours, or in one of Detectron2's or torchvision's, which need not be installed.

    Of others' files RGB pixels are assumed, normalised by ImageNet's mean and standard deviation, and the stride of
    bottlenecks in the 3x3. Detectron2's with its default pixels (BGR in 0..255 less the mean) are known by the
    statistics of the first norm, and their first kernel is converted; `stride` (of `STRIDES`) must then be told.

    Raises UserError where the file is missing or damaged, holds no whole detector, or `stride` is needed or no use.
    """
    tensors, metadata = read_tensors(path, whole=True)
    dialect, tensors = _dialect(tensors, path)
    if dialect is OURS:
        if stride:
            raise UserError(f"{path} holds our own names, which say all: leave out --detector_stride")
        in_1x1 = metadata.get("stride_in_1x1") == "True"
        net, flat = from_names(tensors, OURS, str(path), stem=small_stem_of(metadata), stride_in_1x1=in_1x1)
        return DetectorFile(net, unflatten_dict(flat, sep="/"), _facts(metadata, path))
    is_raw = is_of_raw_pixels(tensors, dialect.begin)
    has_bottlenecks = any(re.search(r"\.res\d\.\d+\.conv3\.", name) for name in tensors)
    if is_raw and has_bottlenecks and not stride:
        raise UserError(
            f"{path} learned on BGR pixels in 0..255, as Detectron2's own models, and no weight shows their stride: "
            f"python -m univip_jax.weights --weights={path} --detector_stride=1x1 --workdir=RUN makes a run of it (1x1 "
            "is Detectron2's default, MODEL.RESNETS.STRIDE_IN_1X1; --detector_stride=3x3 where its config says False)"
        )
    if is_raw:
        tensors = to_our_pixels(tensors, dialect.begin)
    net, flat = from_names(tensors, dialect, str(path), stem=small_stem_of(metadata), stride_in_1x1=stride == "1x1")
    return DetectorFile(net, unflatten_dict(flat, sep="/"), _facts(metadata, path))


def holds_detector(path: Path) -> bool:
    """Whether a file of weights is a whole detector, and not its backbone alone or one without a box head.

    Raises UserError where it is no file of weights.
    """
    tensors, _ = read_tensors(path, whole=True)
    found = ((dialect, prefix) for dialect in DIALECTS for prefix in _prefixes(tensors, dialect))
    return any(prefix + dialect.name("params/box/logits/bias", 0) in tensors for dialect, prefix in found)


def _dialect(tensors: Tensors, path: Path) -> tuple[Dialect, Tensors]:
    """Whose names these are, and the tensors without what stands before all of the detector's names."""
    found = [(dialect, prefix) for dialect in DIALECTS for prefix in _prefixes(tensors, dialect)]
    if not found:
        names = " or ".join(dialect.begin for dialect in DIALECTS)
        raise UserError(f"{path} holds no detector: no {names}, but {shorten(sorted(tensors)) or 'no names'}")
    if len(found) > 1:
        prefixes = shorten([repr(prefix) for _, prefix in found])
        raise UserError(f"{path} holds {len(found)} detectors, under {prefixes}: save the one that is meant alone")
    ((dialect, prefix),) = found
    below = ((name.removeprefix(prefix), tensor) for name, tensor in tensors.items() if name.startswith(prefix))
    return dialect, {rename(name, dialect.old): tensor for name, tensor in below}


def _prefixes(tensors: Tensors, dialect: Dialect) -> list[str]:
    ends = [name for name in tensors if name == dialect.begin or name.endswith(f".{dialect.begin}")]
    return [name.removesuffix(dialect.begin) for name in ends]


def _facts(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(metadata.get("facts", "{}"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise UserError(f"{path}: the facts in its metadata are no JSON object: the file is damaged, write it again")
    return facts
