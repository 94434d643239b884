"""Others' weights as a run's folder, so that they go through the same evaluations as ours.

python -m univip_jax.import_weights --weights=moco_v2_800ep.pth.tar --workdir=runs/moco
python main.py --config=configs/linear.py --config.pretrained=runs/moco --workdir=runs/moco_linear ...
"""

import hashlib
import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

from univip_jax.checkpoint import Checkpoints
from univip_jax.config import write_config
from univip_jax.errors import UserError
from univip_jax.weight_files import read_backbone


def import_weights(path: Path, run: Path, *, prefix: str | None = None, image_size: int | None = None) -> str:
    """Writes a run's folder with the backbone of a file, as its checkpoint of step 0; returns what it is, as a line.

    Raises:
      UserError: the file holds no ResNet of ours, or the folder exists.
    """
    if run.exists():
        raise UserError(f"--workdir={run} exists; choose another folder, or remove it")
    architecture, variables, metadata = read_backbone(path, prefix)
    size = image_size or int(metadata.get("image_size", 224))
    config = ConfigDict(
        {
            "task": "import",
            "imported": {"file": path.name, "sha256": _sha256(path)},
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
    run.mkdir(parents=True)
    with Checkpoints(run, keep=1) as checkpoints:
        state = {kind: {"encoder": {"backbone": tree}} for kind, tree in variables.items()}
        checkpoints.save(0, jax.tree.map(jax.numpy.asarray, state), {"imported": path.name})
        checkpoints.wait()
    write_config(run, config)  # last: without it the folder is no run
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return (
        f"{architecture.backbone} of width {architecture.width:g}, {parameters / 1e6:.1f} million parameters, "
        f"evaluated at {size} px"
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _define_flags() -> None:
    """Not when this module is imported: other commands have flags of the same names."""
    flags.DEFINE_string("weights", None, "File: .safetensors, PyTorch's .pth, Detectron2's .pkl.", required=True)
    flags.DEFINE_string("workdir", None, "Folder to make.", required=True)
    flags.DEFINE_string("prefix", None, "Of the ResNet's names, with its dot, where the file holds several.")
    flags.DEFINE_integer("image_size", None, "Side of the crops it was trained on, px; 224 by default.", 1)


def main(_: list[str]) -> None:
    """Runs the command; a UserError becomes one line on stderr and exit code 1."""
    logging.set_verbosity(logging.ERROR)  # Orbax tells its own steps
    given = flags.FLAGS
    run = Path(given.workdir)
    try:
        what = import_weights(Path(given.weights), run, prefix=given.prefix, image_size=given.image_size)
    except UserError as error:
        print(f"python -m univip_jax.import_weights: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{run}: {what}; next: python main.py --config=configs/knn.py --config.pretrained={run} --workdir=...")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
