"""Whole detectors in files of our own: safetensors under our own names, `params/box/fc1/kernel` [in, out]."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save

from univip_jax.common.errors import UserError, shorten
from univip_jax.common.files import write_whole
from univip_jax.models.mask_rcnn import MaskRCNN
from univip_jax.weights.detector_names import OURS, from_names
from univip_jax.weights.files import read_tensors, small_stem_of
from univip_jax.weights.names import to_flat

DETECTOR = "detector.safetensors"  # in a run's folder


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
    backbone = {"stem": net.backbone.stem}  # the one thing that no shape shows
    metadata = backbone | {"facts": json.dumps(dict(facts), allow_nan=False)}
    write_whole(path, save(to_flat(jax.device_get(variables)), metadata), sync=True)


def read_detector(path: Path) -> DetectorFile:
    """The detector in a file that `write_detector` wrote.

    Raises UserError where the file is missing or damaged, or holds no detector, or not a whole one.
    """
    tensors, metadata = read_tensors(path)
    if OURS.begin not in tensors:
        raise UserError(f"{path} holds no detector: no {OURS.begin}, but {shorten(sorted(tensors)) or 'no names'}")
    net, flat = from_names(tensors, OURS, str(path), small_stem_of(metadata))
    return DetectorFile(net, unflatten_dict(flat, sep="/"), _facts(metadata, path))


def _facts(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(metadata.get("facts", "{}"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise UserError(f"{path}: the facts in its metadata are no JSON object: the file is damaged, write it again")
    return facts


def holds_detector(path: Path) -> bool:
    """Whether a file of weights is a whole detector; raises UserError where it is no file of weights."""
    return OURS.begin in read_tensors(path)[0]
