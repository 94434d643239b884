"""The proof that travels with a file: its consumer's outputs beside ours, on real photos, at every stage."""

from importlib import metadata
from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_images

from univip_jax.common.errors import UserError
from univip_jax.export.consumers import CONSUMERS, jax_outputs
from univip_jax.weights.encoder import Encoder

TOLERANCE = 1e-4
_SMALLEST = 1e-12  # of a stage's largest value: all zeros differ by nothing
# Even and odd, square and not: what a mistake in padding or in flooring shows on.
SIZES = ((224, 224), (225, 301))


def photos(height: int, width: int) -> np.ndarray:
    """scikit-learn's two photos (427 x 640 px; a temple, a flower), cut at the centre: uint8 [2, height, width, 3]."""
    found = np.stack(load_sample_images().images)
    top, left = (found.shape[1] - height) // 2, (found.shape[2] - width) // 2
    return np.ascontiguousarray(found[:, top : top + height, left : left + width])


def compare(encoder: Encoder, kind: str, path: Path) -> dict:
    """Reads the file back by its consumer and compares: the report that becomes `FILE.parity.json`.

    The difference of a stage is the largest absolute one over the stage's largest absolute value: float32 has seven
    digits, and maps of different networks and stages are of very different size.

    Raises:
      UserError: a difference is above 1e-4, or this network computes what is no number.
    """
    libraries, load = CONSUMERS[kind]
    ours, theirs = jax_outputs(encoder), load(path)
    names = ["res2", "res3", "res4", "res5", "features"]
    differences: dict[str, dict[str, float]] = {}
    for size in SIZES:
        images = photos(*size)
        expected, found = ours(images), theirs(images)
        expected = expected[-len(found) :]  # some consumers show the features alone
        if not all(np.isfinite(values).all() for values in expected):
            raise UserError(f"{encoder.source} computes values that are not finite: its training diverged")
        differences[f"{size[0]}x{size[1]}"] = {
            name: float(np.abs(a - b).max() / max(np.abs(a).max(), _SMALLEST))
            for name, a, b in zip(names[-len(found) :], expected, found, strict=True)
        }
    # NumPy's maximum keeps what is not a number, Python's may lose it.
    largest = float(np.max([list(of_size.values()) for of_size in differences.values()]))
    if not largest <= TOLERANCE:
        raise UserError(
            f"--format={kind}: what {libraries[0]} computes from the file differs by {largest:.2g} from this network, "
            f"more than {TOLERANCE:g}: nothing was written; please report the run's config.json and these differences: "
            f"{differences}"
        )
    return {
        "format": kind,
        "consumer": {library: metadata.version(library) for library in libraries},
        "photos": "scikit-learn's china.jpg and flower.jpg, cut at the centre",
        "differences": differences,
        "largest_difference": largest,
        "tolerance": TOLERANCE,
        "precision": "float32, on the CPU",
    }
