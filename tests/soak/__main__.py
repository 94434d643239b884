"""Hurts trainings and compares them, bit for bit, with one that was left alone.

    python -m tests.soak --minutes=30 [--trials=kill,save,...] [--count=50]

Needs no accelerator and no data: scenes of digits, a network of 8 to 64 channels on CPU devices. One row a trial; what
is written in capitals must be 0. Exit code 1 where it is not.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from absl import app, flags

from demo.scenes import write_photos
from tests.soak import trials
from tests.soak.damage import damage_again_and_again
from tests.soak.moments import at_random, inside_a_save, seconds_to_first_step
from tests.soak.training import COMPILED, Training

TRIALS = (
    *("kill", "save", "sigterm", "stalls", "disk", "damage", "memory", "elastic", "elastic64"),
    *("ranks2", "ranks4", "faults"),
)
_MINUTES = flags.DEFINE_float("minutes", 10.0, "How long faults of all kinds are thrown at random (trial `faults`).")
_TRIALS = flags.DEFINE_list("trials", list(TRIALS), f"Which trials, of {', '.join(TRIALS)}.")
_COUNT = flags.DEFINE_integer("count", 50, "Of kill and save; 2/5 of it of sigterm and ranks, 4 times it of damage.", 1)
_STEPS = flags.DEFINE_integer("steps", 400, "Of a training.", 50)
_INTERVAL = flags.DEFINE_integer("interval", 10, "Steps between two checkpoints.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments and the damage.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Keeps everything there; by default in a folder that is removed.")


def _prepare(root: Path) -> Path:
    write_photos(root / "photos", 100, 0)
    command = ["-m", "data_prep", f"--images={root / 'photos/scenes'}", f"--out={root / 'data'}"]
    subprocess.run([sys.executable, *command, "--min_side=10", "--search_max_side=0"], check=True, capture_output=True)
    return root / "data"


def _undisturbed(root: Path, data: Path, ranks: int) -> tuple[Training, float]:
    """A training that nobody hurts, and the seconds from its start, nothing compiled yet, to its first step."""
    training = Training(root / f"undisturbed{ranks}", data, steps=_STEPS.value, interval=_INTERVAL.value, ranks=ranks)
    cold = seconds_to_first_step(training)
    if training.process.wait():
        raise RuntimeError(training.output()[-3000:])
    return training, cold


def _disk(training: Training, reference: Training) -> Counter:
    """No file may grow beyond 64 KiB from some checkpoint on; later it may again."""
    seen: Counter = Counter()
    training.start()
    training.wait_for(lambda: len(training.saved()) >= 2, "two checkpoints")
    training.kill()
    good = training.saved()
    code = training.finish(file_size_limit=64)
    line = next((line for line in training.output().splitlines() if "cannot be written" in line), "")
    seen["exit code"], seen["EXIT CODE NOT 1"], seen["NOT SAID"] = code, int(code != 1), int(not line)
    seen["steps until it said so"] = training.newest_step() - good[-1]
    seen["GOOD CHECKPOINTS LOST"] = len(set(good) - set(training.saved()))
    training.finish()
    trials.compare_ends(training, reference, seen)
    return seen


def _elastic(root: Path, data: Path, float64: bool) -> Counter:
    """1 x 4 devices, 2 x 2, 1 x 2, 1 x 1, against 1 x 4 all along."""
    settings = {"steps": 80, "interval": 10, "float64": float64}
    reference = Training(root / "undisturbed", data, devices=4, **settings)
    reference.finish()
    topologies = ({"devices": 4}, {"ranks": 2, "devices": 2}, {"devices": 2}, {"devices": 1})
    stages = [Training(root / "elastic", data, **settings, **topology) for topology in topologies]
    return trials.elastic(stages, reference)


def _try(name: str, root: Path, data: Path, reference: Training, warm: list[float]) -> Counter:
    """One trial in a folder of its own, with the programs that the undisturbed training compiled."""
    rng = random.Random(f"{_SEED.value} {name}")
    settings = {"steps": _STEPS.value, "interval": _INTERVAL.value, "ranks": reference.ranks}
    training = Training(root / name, data, **settings, stall=5.0 if name in ("stalls", "faults") else 60.0)
    shutil.copytree(reference.folder / COMPILED, training.folder / COMPILED)
    warm.append(seconds_to_first_step(training))
    training.kill() if not training.ranks else training.stop()
    count, longest = _COUNT.value, 1.5 * warm[-1]  # a start and some saves
    if name == "kill":
        return trials.kill_again_and_again(training, reference, count, at_random(rng, longest))
    if name == "save":
        return trials.kill_again_and_again(training, reference, count, inside_a_save(rng))
    if name == "sigterm":
        return trials.sigterm(training, reference, max(1, count * 2 // 5), rng, longest)
    if name == "damage":
        return damage_again_and_again(reference.folder, data, root / name, 4 * count, rng)
    if name == "memory":
        return trials.memory(Training(root / "long", data, **settings | {"steps": 8 * _STEPS.value}))
    if name in ("elastic", "elastic64"):
        return _elastic(root / name, data, float64=name == "elastic64")
    if name == "stalls":
        return trials.stalls(training, data, max(1, count // 10))
    if name == "disk":
        return _disk(training, reference)
    if name == "faults":
        return trials.faults(training, reference, _MINUTES.value, rng)
    return trials.kill_ranks(training, reference, max(1, count * 2 // 5), rng, longest)


def main(_: list[str]) -> None:
    """Runs the trials and prints a row of each."""
    if unknown := set(_TRIALS.value) - set(TRIALS):
        sys.exit(f"error: --trials={','.join(sorted(unknown))} is unknown; choose from {','.join(TRIALS)}")
    root = Path(_WORKDIR.value or tempfile.mkdtemp(prefix="soak")).resolve()
    root.mkdir(parents=True, exist_ok=True)
    data, warm, failed = _prepare(root), [], False
    references: dict[int, Training] = {}
    try:
        for name in _TRIALS.value:
            ranks = {"ranks2": 2, "ranks4": 4, "faults": 1}.get(name, 0)
            if ranks not in references:
                references[ranks], cold = _undisturbed(root, data, ranks)
                print(f"undisturbed, {ranks or 'no'} ranks: {cold:.1f} s to the first step, cold", flush=True)
            reference = references[ranks]
            begun = time.monotonic()
            seen = _try(name, root, data, reference, warm)
            figures = "; ".join(f"{what} {value}" for what, value in seen.items())
            print(f"{name:8} {time.monotonic() - begun:5.0f} s  {figures}; warm start {warm[-1]:.1f} s", flush=True)
            failed |= any(value for what, value in seen.items() if what.isupper())
    finally:
        if not _WORKDIR.value:
            shutil.rmtree(root, ignore_errors=True)
    sys.exit(int(failed))


if __name__ == "__main__":
    app.run(main)
