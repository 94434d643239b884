"""Exports a whole detector for Detectron2 or torchvision, and proves that the file holds the same network."""

import json
from collections.abc import Callable
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp
from safetensors.numpy import load_file, save

from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.common.errors import Misuse, UserError
from univip_jax.export.beside import made_beside
from univip_jax.export.detector_card import write_detector_card
from univip_jax.export.detectron2.configs import named_in_config, resnet_keys, write_detector_config
from univip_jax.export.parity import largest_difference, photos, relative_difference
from univip_jax.export.torch_detector import DETECTRON2, TORCHVISION, DetectorOutputs, Layers, torch_detector_outputs
from univip_jax.weights.detector_file import DETECTOR, DetectorFile, read_detector
from univip_jax.weights.detector_names import to_detectron2_detector, to_torchvision_detector
from univip_jax.weights.names import State, from_detectron2, to_flat
from univip_jax.weights.pickle_file import read_pkl, write_pkl

SIZES = ((224, 224), (192, 320))  # multiples of 32, as Detectron2 pads to
_REGIONS = 8
_LIBRARIES = ("transformers", "torch")


class DetectorFormat(NamedTuple):
    """How a library's file is named and written, and its arrays read without our reader of detectors."""

    suffix: str
    body: str  # how the names of the backbone begin
    names: Layers
    state: Callable[[dict], State]
    write: Callable[[Path, State, dict[str, str]], None]
    read: Callable[[Path], State]


DETECTORS = {
    "detectron2_detector": DetectorFormat(
        ".pkl", "backbone.bottom_up.", DETECTRON2, to_detectron2_detector,
        lambda path, state, _: write_pkl(path, state), partial(read_pkl, whole=True),
    ),
    "torchvision_detector": DetectorFormat(
        ".safetensors", "backbone.body.", TORCHVISION, to_torchvision_detector,
        lambda path, state, text: path.write_bytes(save(state, {"format": "pt", **text})), load_file,
    ),
}  # fmt: skip


def export_detector(
    run: Path, kind: str, out: Path, *, step: int | None, results: list[str], licence: str | None
) -> dict[str, Any]:
    """Writes OUT, its card `OUT.md`, `OUT.parity.json`, and for Detectron2 `STEM.yaml`; nothing where the proof fails.

    Args:
      run: folder of a run of `configs/detection.py`, or a detector's file.

    Raises:
      UserError: `run` holds no detector, or one that the library cannot build; a file is in the way; the proof fails.
    """
    if step is not None or results:
        raise Misuse(
            f"--format={kind}: a run has one detector, and its results.json is found: leave out --step, --results"
        )
    path = run / DETECTOR if run.is_dir() else run
    if run.is_dir() and not path.exists():
        raise UserError(f"{run} has no {DETECTOR}: name the --workdir of a run of configs/detection.py that has ended")
    _require_free(kind, out)
    file = read_detector(path)
    _check(kind, file, path)
    told = {"licence": licence or "other", "facts": json.dumps(file.facts)}
    with made_beside(out) as new:
        DETECTORS[kind].write(new, DETECTORS[kind].state(file.variables), told)
        report = prove_detector(file, kind, new, str(path))
        write_detector_card(new.with_name(f"{out.name}.md"), file, kind, out, path, told["licence"], report)
        text = json.dumps(report, indent=2, allow_nan=False)
        new.with_name(f"{out.name}.parity.json").write_text(text + "\n")
        if kind == "detectron2_detector":
            write_detector_config(new.with_suffix(".yaml"), named_in_config(out), file.net, file.facts)
    return report


def _require_free(kind: str, out: Path) -> None:
    suffix = DETECTORS[kind].suffix
    if out.suffix != suffix:
        raise UserError(f"--out={out}: a file of --format={kind} ends in {suffix}")
    places = [out, *(out.with_name(f"{out.name}{end}") for end in (".md", ".parity.json"))]
    places += [out.with_suffix(".yaml")] if kind == "detectron2_detector" else []
    for place in places:
        if place.exists():
            raise UserError(f"{place} exists; remove it, or choose another --out")


def _check(kind: str, file: DetectorFile, path: Path) -> None:
    """Raises UserError where the library cannot build the detector."""
    backbone = file.net.backbone
    if backbone.stem != "imagenet":
        raise UserError(f"--format={kind}: {path} has a {backbone.stem} stem, which has no counterpart there")
    if kind == "detectron2_detector":
        resnet_keys(backbone)
    elif backbone.stride_in_1x1:
        raise UserError(f"--format={kind}: {path} has its strides in the 1x1, as no ResNet of torchvision")


def prove_detector(file: DetectorFile, kind: str, path: Path, source: str) -> dict[str, Any]:
    """The report that becomes `FILE.parity.json`: the arrays read back, and every output from them beside ours.

    The outputs are PyTorch's, or our own network's where PyTorch is missing.

    Raises UserError where an array reads back with other bits, or an output differs by more than 1e-4.
    """
    back = read_detector(path)._replace(net=file.net)
    expected, found = to_flat(file.variables), to_flat(back.variables)
    if different := [name for name in expected if expected[name].tobytes() != found[name].tobytes()]:
        raise UserError(f"--format={kind}: {different[0]} reads back with other bits: nothing was written")
    missing = [library for library in _LIBRARIES if find_spec(library) is None]
    ours = detector_outputs(file)
    theirs = detector_outputs(back) if missing else _torch_outputs(file, kind, path)
    consumers = ("jax",) if missing else _LIBRARIES
    differences = {}
    for height, width in SIZES:
        inputs = _inputs(height, width, file.net.channels)
        one, other = ours(*inputs), theirs(*inputs)
        if not all(np.isfinite(values).all() for values in one.values()):
            raise UserError(f"{source} computes values that are not finite: its training diverged")
        differences[f"{height}x{width}"] = {name: relative_difference(one[name], other[name]) for name in one}
    return {
        "format": kind,
        "arrays_are_bit_identical": True,
        "consumer": {library: metadata.version(library) for library in consumers},
        "not_installed": missing,
        "photos": "scikit-learn's china.jpg and flower.jpg, cut at the centre; regions are normal noise",
        **largest_difference(differences, kind, consumers[0]),
    }


def _inputs(height: int, width: int, channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images = (photos(height, width) / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD
    rng = np.random.default_rng(0)
    boxes, masks = (rng.normal(size=(_REGIONS, side, side, channels)).astype(np.float32) for side in (7, 14))
    return images, boxes, masks


def detector_outputs(file: DetectorFile) -> DetectorOutputs:
    """Our own network's, in float32 on the CPU."""
    net, cpu = file.net, jax.local_devices(backend="cpu")[0]

    @jax.jit
    def run(variables: Any, images: Any, boxes: Any, masks: Any) -> dict[str, Any]:
        apply = partial(net.apply, variables)
        backbone = {kind: tree["backbone"] for kind, tree in variables.items()}
        maps = net.backbone.apply(backbone, images, False, method="stages")
        levels = apply(images, False, method="levels")
        logits, deltas = apply(levels, method="propose")
        found = {f"res{n}": x for n, x in enumerate(maps, start=2)} | {
            f"P{n}": x for n, x in enumerate(levels, start=2)
        }
        found |= {"rpn_logits": jnp.concatenate(logits, 1), "rpn_deltas": jnp.concatenate(deltas, 1)}
        found["classes"], found["boxes"] = apply(boxes, False, method="classify")
        return found | ({"masks": apply(masks, False, method="segment")} if net.masks else {})

    def outputs(*inputs: np.ndarray) -> dict[str, np.ndarray]:
        with jax.default_matmul_precision("highest"):
            return jax.device_get(run(*jax.device_put((file.variables, *inputs), cpu)))

    return outputs


def _torch_outputs(file: DetectorFile, kind: str, path: Path) -> DetectorOutputs:
    chosen = DETECTORS[kind]
    state = chosen.read(path)
    body = {name.removeprefix(chosen.body): value for name, value in state.items() if name.startswith(chosen.body)}
    body = from_detectron2(body) if kind == "detectron2_detector" else body
    return torch_detector_outputs(file.net.backbone, body, state, chosen.names)
