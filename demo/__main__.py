"""Data, preparation, pre-training of BYOL and of UniVIP, and evaluation, in a few minutes.

    python -m demo [--workdir=runs/demo] [--seed=0]

Each step is a command of the README or of docs/running.md, printed before it runs.
"""

import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from configs import demo as config
from demo.scenes import write_photos
from univip_jax.common.buckets import is_bucket
from univip_jax.common.cli import define_path
from univip_jax.common.cli import run as run_command
from univip_jax.common.errors import UserError
from univip_jax.common.files import LOCK, at, held, on_this_machine, remove_tree, write_whole

_SCENES = 3000
_CONFIG = config.get_config()
_PROPOSALS = ("--min_side=18", "--search_max_side=0")  # smaller ones are scraps of digits
_ROWS = {"univip": "", "byol": ":table7=a"}
_MARK = ".made_by_demo"
_GRACE = 10.0  # s that a command has to end after a SIGTERM
# Two commands run side by side, with one core each. On a CPU the pass makes 3x3 convolutions of 2x2 pixels 25 times
# slower; larger images need no flag (demo/notes.md).
_XLA = ("disable_hlo_passes=algsimp", "cpu_multi_thread_eigen=false")
_ENV = {
    "XLA_FLAGS": " ".join([f"--xla_{flag}" for flag in _XLA] + ["intra_op_parallelism_threads=1"]),
    "OMP_NUM_THREADS": "1",
    **os.environ,
}


def _together(log: Path, *commands: list[str]) -> None:
    """Runs commands side by side, shows the output of the first and keeps the others' in `log`.

    If one fails, the demo ends with its exit code.
    """
    for words in commands:
        print(f"\n$ python {shlex.join(words)}", flush=True)
    processes: list[subprocess.Popen] = []
    try:
        with log.open("w") as file:
            for words in commands:
                hidden = {"stdout": file, "stderr": subprocess.STDOUT} if processes else {}
                processes.append(subprocess.Popen([sys.executable, *words], env=_ENV, **hidden))
        for process in processes:
            if code := process.wait():
                if process is not processes[0]:
                    print(log.read_text(), file=sys.stderr)
                sys.exit(code)
    finally:  # after a failure or Ctrl-C nothing goes on writing
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_GRACE)
            process.kill()


def _evaluate(name: str, pretrained: str, root: Path, seed: int) -> tuple[Path, list[str]]:
    """The command of a linear probe on held-out digits, and the folder of its results."""
    folder = root / f"probe_{name}"
    return folder, [
        "main.py",
        "--config=configs/linear.py:protocol=logistic",
        f"--workdir={folder}",
        f"--config.pretrained={pretrained}",
        f"--config.data.train={root / 'photos/labelled/train'}",
        f"--config.data.test={root / 'photos/labelled/test'}",
        f"--config.image_size={_CONFIG.views.scene_size}",
        f"--config.seed={seed}",
        *(f"--config.model.{field}={_CONFIG.model[field]}" for field in ("backbone", "width", "stem")),
    ]


def _work() -> None:
    root = at(flags.FLAGS.workdir)
    if root.exists() and not (root / _MARK).exists():
        raise UserError(f"--workdir={root} was not made by a demo and is not replaced: choose another --workdir")
    with held(root):
        for old in list(root.iterdir()):
            if not old.name.startswith(LOCK):
                remove_tree(old) if old.is_dir() else old.unlink()
        _run_all(root, flags.FLAGS.seed)


def _run_all(root: Path, first: int) -> None:
    began = time.monotonic()
    write_whole(root / _MARK, "")
    here = on_this_machine(root)
    here.mkdir(parents=True, exist_ok=True)
    log, data, seeds = here / "side_by_side.log", root / "data", (first, first + 1)
    print(f"writing {_SCENES} scenes of handwritten digits to {root / 'photos'}")
    _write_photos(root / "photos", first)
    _together(log, ["-m", "data_prep", f"--images={root / 'photos/scenes'}", f"--out={data}", *_PROPOSALS])
    probes = {}
    for seed in seeds:
        print(f"\nUniVIP and BYOL side by side, seed {seed}; UniVIP's output follows, BYOL's is in {log}")
        names = [f"{row}_{seed}" for row in _ROWS]
        _together(
            log,
            *(
                [
                    "main.py",
                    f"--config=configs/demo.py{argument}",
                    f"--workdir={root / name}",
                    f"--config.data.train={data}",
                    "--config.data.num_threads=1",
                    f"--config.seed={seed}",
                ]
                for name, argument in zip(names, _ROWS.values(), strict=True)
            ),
        )
        found = [_evaluate(name, str(root / name), root, seed) for name in names]
        found.append(_evaluate(f"untrained_{seed}", "random", root, seed))
        _together(log, *(command for _, command in found))
        probes |= {folder.name.removeprefix("probe_"): folder for folder, _ in found}
    run = root / f"univip_{first}"
    _together(log, ["-m", "univip_jax.report", f"--run={run}"])
    _print_table(seeds, {n: json.loads((folder / "results.json").read_text())["top1"] for n, folder in probes.items()})
    print(
        f"what the network saw   {run / 'first_batch.png'}\n"
        f"the run on one page    {run / 'report.html'}; curves live: tensorboard --logdir={root}\n"
        "your own photos        python -m univip_jax.pretrain --images=DIR --out=DIR (docs/own-photos.md)\n"
        f"done in {time.monotonic() - began:.0f} s"
    )


def _write_photos(folder: Path, seed: int) -> None:
    if not is_bucket(folder):
        write_photos(folder, _SCENES, seed)
        return
    with tempfile.TemporaryDirectory() as here:
        write_photos(Path(here), _SCENES, seed)
        folder.fs.put(f"{here}/", f"{folder}/", recursive=True)


def _print_table(seeds: tuple[int, int], top1: dict[str, float]) -> None:
    """`top1` by row and seed, in percent."""
    print("\nlinear probe on digits that no scene showed, of any size and place, top-1 in percent (chance: 10)")
    print(f"  {'':28}seed {seeds[0]:<4}seed {seeds[1]:<4}mean")
    texts = {"untrained": "untrained network", "byol": "BYOL (Table 7 a)", "univip": "UniVIP (Table 7 e)"}
    for row, text in texts.items():
        values = [top1[f"{row}_{seed}"] for seed in seeds]
        print(f"  {text:26}{values[0]:7.1f}  {values[1]:7.1f}  {statistics.mean(values):7.1f}")
    gains = [top1[f"univip_{seed}"] - top1[f"byol_{seed}"] for seed in seeds]
    print(
        f"  UniVIP - BYOL             {gains[0]:+7.1f}  {gains[1]:+7.1f}  {statistics.mean(gains):+7.1f} +- "
        f"{statistics.stdev(gains) / len(gains) ** 0.5:.1f} (standard error of the mean)"
    )


def _define_flags() -> None:
    define_path("workdir", "runs/demo", "Folder of the demo; an older demo there is replaced.")
    flags.DEFINE_integer("seed", 0, "Seed of the photos, and the first of two seeds of networks and order.")


if __name__ == "__main__":
    run_command("demo", _define_flags, (), _work, interrupted="the same command starts anew")
