"""Imports weights from elsewhere as a run's folder, so that every evaluation takes them.

python -m univip_jax.weights --weights=moco_v2_800ep.pth.tar --workdir=runs/moco
python main.py --config=configs/linear.py --config.pretrained=runs/moco --workdir=runs/moco_linear ...
"""

import os
from pathlib import Path

# XLA reads it on import; its start-up notes hide what a user needs to read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from univip_jax.common.cli import run as run_command
from univip_jax.weights.imported import import_weights


def _define_flags() -> None:
    flags.DEFINE_string("weights", None, "File to read: .safetensors, PyTorch's .pth, Detectron2's .pkl.")
    flags.DEFINE_string("workdir", None, "Folder to make.")
    flags.DEFINE_string("prefix", None, "Prefix of the ResNet's names, with its dot, where the file holds several.")
    flags.DEFINE_integer("image_size", None, "Side of the crops it was trained on, px; 224 by default.", 1, 4096)


def _work() -> None:
    given = flags.FLAGS
    run = Path(given.workdir)
    what = import_weights(Path(given.weights), run, prefix=given.prefix, image_size=given.image_size)
    print(f"{run}: {what}; next: python main.py --config=configs/knn.py --config.pretrained={run} --workdir=...")


if __name__ == "__main__":
    run_command("univip_jax.weights", _define_flags, ("weights", "workdir"), _work, interrupted="nothing was written")
