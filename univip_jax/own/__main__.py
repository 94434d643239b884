"""Your own photos in one command: prepares them, chooses a recipe, trains, exports and reports.

python -m univip_jax.pretrain --images=DIR --out=DIR [--hours=8] [--init=FILE|RUN] [--backbone=resnet50]

The same command goes on after anything. `univip_jax.pretrain(images=..., out=...)` is the same in Python.
"""

import os

# XLA reads it when it is imported; its start-up notes hide what a user needs to read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from univip_jax.common.cli import define_path, run

NAME = "univip_jax.pretrain"
_STOPPED = 143  # 128 + SIGTERM: it is saved, and not finished


def _define_flags() -> None:
    define_path("images", [], "Folder with photos in it or below, zip or tar file; or a data set of data_prep.")
    define_path("out", None, "Folder for all of it: data set, run, weights, page.")
    flags.DEFINE_float("hours", 8.0, "How long all of it may take.", 0.0)
    define_path("init", None, "File of weights or run to start from; none: from zero.")
    flags.DEFINE_string("backbone", None, "resnet10, 18, 34, 50, ...; by default it is chosen.")
    flags.DEFINE_integer("scene_size", 0, "Side of the scenes, px; 0: 224, on a CPU 64.", 0, 1024)
    define_path("annotations", [], "COCO instances json of the photos: tells how good the proposals are.")
    define_path("labelled", None, "Labelled photos (a folder for each class) to judge by, before and after.")


def _work() -> int:
    from univip_jax.own.pretrain import pretrain  # late: --help needs none of it

    given = flags.FLAGS
    names = ("images", "out", "hours", "init", "backbone", "scene_size", "annotations", "labelled")
    return 0 if pretrain(**{name: given[name].value for name in names}) else _STOPPED


if __name__ == "__main__":
    run(NAME, _define_flags, ("images", "out"), _work, interrupted="the same command goes on")
