"""Others' weights as a run's folder, so that they go through the same evaluations as ours.

python -m univip_jax.weights --weights=moco_v2_800ep.pth.tar --workdir=runs/moco
python main.py --config=configs/linear.py --config.pretrained=runs/moco --workdir=runs/moco_linear ...
"""

import hashlib
import os
import tempfile
from pathlib import Path

# XLA reads it when it is imported; its start-up notes hide what a user needs to read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
from absl import flags
from ml_collections import ConfigDict

from univip_jax.common.cli import run as run_command
from univip_jax.common.errors import UserError
from univip_jax.config import write_config
from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.weights.files import image_size_of, read_backbone

TASK = "import"  # of such a run's config
ORIGIN = ("producer", "run", "step", "config_sha256", "licence")  # of a file's metadata: who trained it, by what


def import_weights(path: Path, run: Path, *, prefix: str | None = None, image_size: int | None = None) -> str:
    """Writes a run's folder with the backbone of a file, as its checkpoint of step 0; returns what it is, as a line.

    Raises:
      UserError: the file holds no ResNet of ours, or the folder exists or cannot be written.
    """
    if run.exists():
        raise UserError(f"--workdir={run} exists; choose another folder, or remove it")
    architecture, variables, metadata = read_backbone(path, prefix)
    origin = {name: metadata[name] for name in ORIGIN if name in metadata}
    size = image_size or image_size_of(metadata)
    config = ConfigDict(
        {
            "task": TASK,
            "imported": {"file": path.name, "sha256": sha256_of(path), "metadata": origin},
            "model": {
                "backbone": architecture.backbone,
                "width": architecture.width,
                "stem": architecture.stem,
                "zero_init_residual": False,
                "hidden": 1,  # there are no heads
                "projection": 1,
                "dtype": "float32",
            },
            "views": {"scene_size": size},
        }
    )
    try:
        run.parent.mkdir(parents=True, exist_ok=True)
        # Made beside its place, then moved: a folder that is there is whole.
        with tempfile.TemporaryDirectory(dir=run.parent, prefix=f".{run.name}-") as made:
            folder = Path(made) / "run"
            folder.mkdir()
            with Checkpoints(folder, Retention(1)) as checkpoints:
                state = {kind: {"encoder": {"backbone": tree}} for kind, tree in variables.items()}
                checkpoints.save(0, jax.tree.map(jax.numpy.asarray, state), {"imported": path.name})
                checkpoints.wait()
            write_config(folder, config)
            folder.rename(run)
    except OSError as error:
        raise UserError(f"--workdir={run} cannot be written: {error.strerror}") from error
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return (
        f"{architecture.backbone} of width {architecture.width:g}, {parameters / 1e6:.1f} million parameters, "
        f"evaluated at {size} px"
    )


def sha256_of(path: Path) -> str:
    """Of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _define_flags() -> None:
    flags.DEFINE_string("weights", None, "File: .safetensors, PyTorch's .pth, Detectron2's .pkl.")
    flags.DEFINE_string("workdir", None, "Folder to make.")
    flags.DEFINE_string("prefix", None, "Of the ResNet's names, with its dot, where the file holds several.")
    flags.DEFINE_integer("image_size", None, "Side of the crops it was trained on, px; 224 by default.", 1, 4096)


def _work() -> None:
    given = flags.FLAGS
    run = Path(given.workdir)
    what = import_weights(Path(given.weights), run, prefix=given.prefix, image_size=given.image_size)
    print(f"{run}: {what}; next: python main.py --config=configs/knn.py --config.pretrained={run} --workdir=...")


if __name__ == "__main__":
    run_command("univip_jax.weights", _define_flags, ("weights", "workdir"), _work, interrupted="nothing was written")
