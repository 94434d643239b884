"""Fault injection: hurts trainings and compares them, bit for bit, with one that was left alone.

    python -m tests.soak --minutes=30 [--trials=kill,save,...] [--count=50]

Needs no accelerator and no data: scenes of digits, a network of 8 to 64 channels on CPU devices. Prints one line per
trial. Figures named in capitals must be 0, else the exit code is 1.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from absl import app, flags

from demo.scenes import write_photos
from tests.soak import trials
from tests.soak.damage import damage, kill_preparation
from tests.soak.training import COMPILED, Training
from univip_jax.common.cli import define_path

_MINUTES = flags.DEFINE_float("minutes", 10.0, "How long the trial `faults` injects faults.")
_TRIALS = flags.DEFINE_list("trials", [], "Which trials; all by default.")
_COUNT = flags.DEFINE_integer("count", 50, "Repetitions of kill and save; the other trials have a share of it.", 1)
_STEPS = flags.DEFINE_integer("steps", 400, "Steps of a training.", 50)
_INTERVAL = flags.DEFINE_integer("interval", 10, "Steps between two checkpoints.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments and of the damage.")
_WORKDIR = define_path("workdir", None, "Keeps all files there; by default they are removed.")


class Soak:
    """What the trials share: the data set, and trainings that were left alone."""

    def __init__(self, root: Path):
        write_photos(root / "photos", 100, 0)
        self.root, self.data = root, root / "data"
        subprocess.run(self.prepare(self.data), check=True, capture_output=True)
        self._references: dict[int, tuple[Training, float]] = {}

    def prepare(self, out: Path) -> list[str]:
        """The command that prepares the scenes."""
        command = [sys.executable, "-m", "data_prep", f"--images={self.root / 'photos/scenes'}", f"--out={out}"]
        return [*command, "--min_side=10", "--search_max_side=0", "--num_workers=2"]

    def reference(self, processes: int = 1) -> tuple[Training, float]:
        """A finished training, and the seconds from a start that compiles nothing to the first step."""
        if processes not in self._references:
            training = self.training(f"reference{processes}", processes=processes)
            training.start()
            training.wait_for_step()
            cold = time.monotonic() - training.started
            if training.wait():
                raise RuntimeError(training.output()[-3000:])
            again = self.training(f"warm{processes}", training, processes=processes)
            again.start()
            again.wait_for_step()
            warm = time.monotonic() - again.started
            again.kill()
            print(f"{processes} processes: {cold:.1f} s to the first step cold, {warm:.1f} s warm", flush=True)
            self._references[processes] = training, warm
        return self._references[processes]

    def training(self, name: str, compiled_by: Training | None = None, **settings) -> Training:
        """A training of its own, with the programs that another compiled."""
        settings = {"steps": _STEPS.value, "interval": _INTERVAL.value} | settings
        training = Training(self.root / name, self.data, **settings)
        if compiled_by:
            shutil.copytree(compiled_by.folder / COMPILED, training.folder / COMPILED)
        return training

    def hurt(self, trial: Callable[..., Counter], *arguments, name: str, **settings) -> Counter:
        """A trial of (training, reference, *arguments)."""
        reference, _ = self.reference(settings.get("processes", 1))
        return trial(self.training(name, reference, **settings), reference, *arguments)

    def elastic(self, name: str, float64: bool) -> Counter:
        """1 x 4 devices, 2 x 2, 1 x 2, 1 x 1, against 1 x 4 all along."""
        settings = {"steps": 80, "interval": 10, "float64": float64}
        reference = self.training(f"{name}_reference", devices=4, **settings)
        reference.finish()
        topologies = ({"devices": 4}, {"processes": 2, "devices": 2}, {"devices": 2}, {"devices": 1})
        return trials.elastic([self.training(name, **settings, **topology) for topology in topologies], reference)

    def random_time(self, rng: random.Random, processes: int = 1) -> trials.Wait:
        """Up to a warm start and some saves."""
        return trials.at_random(rng, 1.5 * self.reference(processes)[1])


# Each takes (soak, rng, count).
TRIALS: dict[str, Callable[[Soak, random.Random, int], Counter]] = {
    "kill": lambda s, rng, n: s.hurt(trials.kill, n, s.random_time(rng), name="kill"),
    "save": lambda s, rng, n: s.hurt(trials.kill, n, trials.inside_a_save(rng), name="save"),
    "sigterm": lambda s, rng, n: s.hurt(trials.sigterm, share(n), s.random_time(rng), name="sigterm"),
    "stall": lambda s, rng, n: s.hurt(trials.stall, s.data, n // 10 or 1, name="stall", stall=5.0),
    "disk": lambda s, rng, n: s.hurt(trials.full_disk, name="disk"),
    "damage": lambda s, rng, n: damage(s.reference()[0].folder, s.data, s.root / "damage", 4 * n, rng),
    "prepare": lambda s, rng, n: kill_preparation(s.prepare(s.root / "killed"), s.root / "killed", s.data, n, rng),
    "elastic": lambda s, rng, n: s.elastic("elastic", float64=False),
    "elastic64": lambda s, rng, n: s.elastic("elastic64", float64=True),
    "ranks2": lambda s, rng, n: s.hurt(trials.kill, share(n), s.random_time(rng, 2), name="ranks2", processes=2),
    "ranks4": lambda s, rng, n: s.hurt(trials.kill, share(n), s.random_time(rng, 4), name="ranks4", processes=4),
    "faults": lambda s, rng, n: s.hurt(trials.faults, _MINUTES.value, rng, name="faults", supervised=True),
}


def share(count: int) -> int:
    """Two fifths, for trials that take longer."""
    return max(1, count * 2 // 5)


def main(_: list[str]) -> None:
    """Runs the trials."""
    if unknown := set(_TRIALS.value) - set(TRIALS):
        sys.exit(f"error: --trials={','.join(sorted(unknown))} is unknown; choose from {','.join(TRIALS)}")
    root, failed = Path(_WORKDIR.value or tempfile.mkdtemp(prefix="soak")).resolve(), False
    try:
        soak = Soak(root)
        for name in _TRIALS.value or TRIALS:
            begun = time.monotonic()
            seen = TRIALS[name](soak, random.Random(f"{_SEED.value} {name}"), _COUNT.value)
            figures = "; ".join(f"{what} {value}" for what, value in seen.items())
            print(f"{name:9} {time.monotonic() - begun:5.0f} s  {figures}", flush=True)
            failed |= any(value for what, value in seen.items() if what.isupper())
    finally:
        if not _WORKDIR.value:
            shutil.rmtree(root, ignore_errors=True)
    sys.exit(int(failed))


if __name__ == "__main__":
    app.run(main)
