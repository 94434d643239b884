"""Weights from elsewhere as a run's folder, so that every evaluation takes them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from ml_collections import ConfigDict

from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import UserError
from univip_jax.common.files import sha256_of
from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.run.folder import write_config
from univip_jax.weights.detector_file import DETECTOR, read_detector, write_detector
from univip_jax.weights.files import image_size_of, read_backbone

TASK = "import"  # in config.json of such a run
_UNUSED = {"zero_init_residual": False, "hidden": 1, "projection": 1, "dtype": "float32"}  # there are no heads
ORIGIN = (
    "producer",
    "run",
    "step",
    "config_sha256",
    "started_from",
    "licence",
)  # the metadata that say who trained a file's weights


def import_weights(
    path: Path, run: Path, *, prefix: str | None = None, stem: str | None = None, image_size: int | None = None
) -> str:
    """Writes a run's folder whose checkpoint of step 0 holds a file's backbone; returns a line about it.

    Raises:
      UserError: the file holds no plain ResNet, or the folder exists or cannot be written.
    """
    _require_absent(run)
    net, variables, metadata, note = read_backbone(path, prefix, stem)
    size = image_size or image_size_of(metadata, net)
    config = ConfigDict(
        {
            "task": TASK,
            "imported": {
                "file": path.name,
                "sha256": sha256_of(path),
                "metadata": {name: metadata[name] for name in ORIGIN if name in metadata},
            },
            "model": {"backbone": net.variant, "width": net.width, "stem": net.stem, **_UNUSED},
            "views": {"scene_size": size},
        }
    )
    try:
        with _filled(run) as folder:
            with Checkpoints(folder, Retention(1)) as checkpoints:
                state = {kind: {"encoder": {"backbone": tree}} for kind, tree in variables.items()}
                checkpoints.save(0, jax.tree.map(jax.numpy.asarray, state), {"imported": path.name})
                checkpoints.wait()
            write_config(folder, config)
    except OSError as error:
        raise UserError(f"--workdir={run} cannot be written: {error.strerror}") from error
    millions = sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) / 1e6
    note = f"; {note}" if note else ""
    return f"{net.variant} of width {net.width:g}, {millions:.1f} million parameters, evaluated at {size} px{note}"


def import_detector(path: Path, run: Path, stride: str) -> str:
    """Writes a folder with another project's detector in our form, as a trained one leaves; returns a line about it.

    Raises UserError as `read_detector` does, and where the folder exists or cannot be written.
    """
    _require_absent(run)
    net, variables, _ = read_detector(path, stride)
    try:
        run.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--workdir={run} cannot be written: {error.strerror}") from error
    source = {"path": path.name, "step": 0, "sha256": sha256_of(path)}
    write_detector(run / DETECTOR, net, variables, {"step": 0, "pretrained": source})
    masks = "with masks" if net.masks else "without masks"
    return f"{net.backbone.variant} of width {net.backbone.width:g}, {net.box_head}, {net.num_classes} classes, {masks}"


@contextmanager
def _filled(run: Path) -> Iterator[Path]:
    """A folder to fill, made beside `run` and then moved: one that exists is whole. In a bucket it is `run` itself."""
    if is_bucket(run):
        yield run
        return
    run.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run.parent, prefix=f".{run.name}-") as made:
        folder = Path(made) / "run"
        folder.mkdir()
        yield folder
        folder.rename(run)


def _require_absent(run: Path) -> None:
    if run.exists():
        raise UserError(f"--workdir={run} exists; choose another folder, or remove it")
