"""Imports weights from elsewhere as a run's folder, so that every evaluation takes them.

python -m univip_jax.weights --weights=moco_v2_800ep.pth.tar --workdir=runs/moco
python main.py --config=configs/linear.py --config.pretrained=runs/moco --workdir=runs/moco_linear ...
python -m univip_jax.weights --weights=model_final_f10217.pkl --detector_stride=1x1 --workdir=runs/zoo
"""

import os

# XLA reads it on import; its start-up notes hide what a user needs to read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from univip_jax.common.cli import define_path
from univip_jax.common.cli import run as run_command
from univip_jax.common.files import at
from univip_jax.models.resnet import STEMS
from univip_jax.weights.detector_file import STRIDES
from univip_jax.weights.imported import import_detector, import_weights


def _define_flags() -> None:
    define_path("weights", None, "File to read: safetensors, PyTorch's, Detectron2's; its name does not matter.")
    define_path("workdir", None, "Folder to make.")
    flags.DEFINE_string("prefix", None, "How the ResNet's names begin, where the file holds several.")
    flags.DEFINE_enum("stem", None, STEMS[1:], "Of a 3x3 stem: stride 2 (small) or 1 (cifar); no weight shows it.")
    flags.DEFINE_integer(
        "image_size", None, "Side of the crops it was trained on, px; by default 224, or 32 with --stem=cifar.", 1, 4096
    )
    flags.DEFINE_enum(
        "detector_stride",
        None,
        STRIDES,
        "Import a whole detector, whose bottlenecks have the stride in this convolution.",
    )


def _check() -> None:
    given = flags.FLAGS
    if given.detector_stride and (given.prefix is not None or given.stem or given.image_size):
        raise flags.Error("--detector_stride imports a whole detector: leave out --prefix, --stem and --image_size")


def _work() -> None:
    given = flags.FLAGS
    run, weights = at(given.workdir), at(given.weights)
    if given.detector_stride:
        what = import_detector(weights, run, given.detector_stride)
        judge = f"python main.py --config=configs/detection.py:schedule=evaluate --config.pretrained={run}"
        print(f"{run}: {what}; next: {judge} --config.data.test=DIR --workdir=...")
        return
    what = import_weights(weights, run, prefix=given.prefix, stem=given.stem, image_size=given.image_size)
    print(f"{run}: {what}; next: python main.py --config=configs/knn.py --config.pretrained={run} --workdir=...")


if __name__ == "__main__":
    run_command(
        "univip_jax.weights",
        _define_flags,
        ("weights", "workdir"),
        _work,
        check=_check,
        interrupted="nothing was written",
    )
