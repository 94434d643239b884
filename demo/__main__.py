"""Data, preparation, pre-training and evaluation in a few minutes.

    python -m demo [--workdir=runs/demo] [--seed=0]

Each step is a command of the README or of docs/running.md, printed before it runs.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

from configs import demo as config
from demo.scenes import write_photos

_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Folder of the demo; an older demo there is replaced.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of photos, networks and order.")
_SCENES = 1000
_CONFIG = config.get_config()
_MARK = ".made_by_demo"
# On a CPU this pass makes 3x3 convolutions of 2x2 pixels 25 times slower; larger images need no flag (demo/notes.md).
_XLA_FLAGS = "--xla_disable_hlo_passes=algsimp"


def _command(*words: str) -> None:
    """Runs a command; if it fails, the demo ends with its exit code."""
    print(f"\n$ python {shlex.join(words)}", flush=True)
    if code := subprocess.run([sys.executable, *words], env={"XLA_FLAGS": _XLA_FLAGS, **os.environ}).returncode:
        sys.exit(code)


def _evaluate(name: str, pretrained: str, root: Path) -> float:
    """Top-1 in percent of a linear probe on the features of `pretrained`, on held-out digits."""
    _command(
        "main.py",
        "--config=configs/linear.py:protocol=logistic",
        f"--workdir={root / name}",
        f"--config.pretrained={pretrained}",
        f"--config.data.train={root / 'photos/labelled/train'}",
        f"--config.data.test={root / 'photos/labelled/test'}",
        f"--config.image_size={_CONFIG.views.scene_size}",
        f"--config.seed={_SEED.value}",
        *(f"--config.model.{field}={_CONFIG.model[field]}" for field in ("backbone", "width", "stem")),
    )
    return json.loads((root / name / "results.json").read_text())["top1"]


def main(_: list[str]) -> None:
    """Runs the demo."""
    began, root = time.monotonic(), Path(_WORKDIR.value)
    if root.exists() and not (root / _MARK).exists():
        sys.exit(f"error: --workdir={root} was not made by a demo and is not replaced: choose another --workdir")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / _MARK).touch()
    print(f"writing {_SCENES} scenes of handwritten digits to {root / 'photos'}")
    write_photos(root / "photos", _SCENES, _SEED.value)
    _command(
        "-m", "data_prep", f"--images={root / 'photos/scenes'}", f"--out={root / 'data'}",
        "--min_side=10", "--search_max_side=0",
    )  # fmt: skip
    run = root / "run"
    _command(
        "main.py", "--config=configs/demo.py", f"--workdir={run}", f"--config.data.train={root / 'data'}",
        f"--config.seed={_SEED.value}",
    )  # fmt: skip
    _command("-m", "univip_jax.report", f"--run={run}")
    untrained = _evaluate("probe_untrained", "random", root)
    trained = _evaluate("probe_trained", str(run), root)
    print(
        "\nlinear probe on digits that no scene showed, of any size and place (chance: 10 %)\n"
        f"  untrained network   {untrained:5.1f} %\n"
        f"  after pre-training  {trained:5.1f} %\n"
        f"what the network saw   {run / 'first_batch.png'}\n"
        f"the run on one page    {run / 'report.html'}; curves live: tensorboard --logdir={run}\n"
        f"done in {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    app.run(main)
