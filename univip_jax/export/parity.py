"""The proof that travels with a file: its arrays are ours bit for bit, its consumer computes the same on photos."""

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from sklearn.datasets import load_sample_images

from univip_jax.common.errors import UserError
from univip_jax.export.consumers import jax_outputs, our_outputs
from univip_jax.export.formats import FORMATS, OURS
from univip_jax.weights.encoder import Encoder
from univip_jax.weights.files import read_backbone
from univip_jax.weights.names import to_torch, to_transformers

TOLERANCE = 1e-4
_SMALLEST = 1e-12  # of a stage's largest value: all zeros differ by nothing
# Even and odd, square and not: sizes that reveal a mistake in padding or rounding.
SIZES = ((224, 224), (225, 301))
STAGES = ("res2", "res3", "res4", "res5", "features")


def photos(height: int, width: int) -> np.ndarray:
    """scikit-learn's two photos (427 x 640 px; a temple, a flower), cut at the centre: uint8 [2, height, width, 3]."""
    found = np.stack(load_sample_images().images)
    top, left = (found.shape[1] - height) // 2, (found.shape[2] - width) // 2
    return np.ascontiguousarray(found[:, top : top + height, left : left + width])


def compare_arrays(encoder: Encoder, kind: str, path: Path) -> bool:
    """Reads the file back and compares every array bit for bit; False for functions, which show no arrays.

    Raises UserError where an array differs, or is missing.
    """
    expected = to_torch(encoder.variables)
    if kind == "transformers":
        expected, found = to_transformers(expected), load_file(path / "model.safetensors")
    elif FORMATS[kind].holds_arrays:
        found = to_torch(read_backbone(path).variables)
    else:
        return False
    for name, array in expected.items():
        same = name in found and (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        if not same or found[name].tobytes() != array.tobytes():
            raise UserError(f"--format={kind}: {name} reads back with other bits: nothing was written")
    return True


def compare_outputs(encoder: Encoder, kind: str, path: Path) -> dict:
    """Runs the file in its consumer, beside our network on real photos; in our own network where PyTorch is missing.

    The difference of a stage is the largest absolute one over the stage's largest absolute value: float32 has seven
    digits, and maps of different networks and stages are of very different size.

    Raises:
      UserError: a difference is above 1e-4, or this network computes values that are not finite.
    """
    libraries, outputs = FORMATS[kind].libraries, FORMATS[kind].outputs
    missing = [library for library in libraries if find_spec(library) is None]
    if missing and FORMATS[kind].holds_arrays:
        libraries, outputs = OURS, our_outputs
    ours, theirs = jax_outputs(encoder), outputs(path)
    differences: dict[str, dict[str, float]] = {}
    for size in SIZES:
        images = photos(*size)
        expected, found = ours(images), theirs(images)
        if not all(np.isfinite(values).all() for values in expected):
            raise UserError(f"{encoder.source} computes values that are not finite: its training diverged")
        shown = list(zip(STAGES, expected, strict=True))[-len(found) :]  # some consumers show the features alone
        differences[f"{size[0]}x{size[1]}"] = {
            name: relative_difference(a, b) for (name, a), b in zip(shown, found, strict=True)
        }
    return {
        "consumer": {library: metadata.version(library) for library in libraries},
        "not_installed": missing,
        "photos": "scikit-learn's china.jpg and flower.jpg, cut at the centre",
        **largest_difference(differences, kind, libraries[0]),
    }


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest absolute difference over our largest absolute value."""
    return float(np.abs(ours - theirs).max() / max(np.abs(ours).max(), _SMALLEST))


def largest_difference(differences: dict[str, dict[str, float]], kind: str, consumer: str) -> dict:
    """What a report says of the differences by size and stage; raises UserError where one is above 1e-4."""
    # NumPy's maximum keeps a NaN, Python's may lose it.
    largest = float(np.max([list(of_size.values()) for of_size in differences.values()]))
    if not largest <= TOLERANCE:
        raise UserError(
            f"--format={kind}: {consumer}'s outputs from the file differ by {largest:.2g} from ours, more "
            f"than {TOLERANCE:g}; nothing was written: please report the run's config.json and these differences: "
            f"{differences}"
        )
    return {
        "differences": differences,
        "largest_difference": largest,
        "tolerance": TOLERANCE,
        "precision": "float32, on the CPU",
    }


def prove(encoder: Encoder, kind: str, path: Path) -> dict:
    """Both comparisons: the report that becomes `FILE.parity.json`. Raises UserError as they do."""
    outputs = compare_outputs(encoder, kind, path)
    return {"format": kind, "arrays_are_bit_identical": compare_arrays(encoder, kind, path), **outputs}


def summary(report: dict) -> str:
    """The proof in one line."""
    consumers = ", ".join(f"{name} {version}" for name, version in report["consumer"].items())
    line = "arrays read back bit for bit; " if report["arrays_are_bit_identical"] else ""
    line += f"outputs of {consumers} differ by at most {report['largest_difference']:.1e} (allowed: {TOLERANCE:g})"
    if missing := ", ".join(report["not_installed"]):
        line += f"; not compared with PyTorch (not installed: {missing}): pip install -r requirements-export.txt"
    return line
