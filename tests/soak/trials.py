"""Trials: each hurts a training in one way and compares it with one that was left alone.

A trial returns its figures by name. Those in capitals must be 0.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.soak.damage import damage_one
from tests.soak.training import COMPILED, Training

Wait = Callable[[Training], bool]  # until the training is hurt; False if it has ended before


def compare(training: Training, reference: Training, seen: Counter) -> None:
    """Compares the newest checkpoint that both have, and all losses, bit for bit."""
    if common := set(training.saved()) & set(reference.saved()):
        same = training.digests(max(common)) == reference.digests(max(common))
        seen["states identical" if same else "STATES THAT DIFFER"] += 1
    expected = reference.losses()
    seen["LOSSES THAT DIFFER"] += sum(loss != expected[step] for step, loss in training.losses().items())


def compare_ends(training: Training, reference: Training, seen: Counter) -> None:
    """As `compare`, for trainings that should be at their end."""
    compare(training, reference, seen)
    final = max(reference.saved())
    same = final in training.saved() and training.digests(final) == reference.digests(final)
    seen["FINAL STATES THAT DIFFER"] += not same


def at_random(rng: random.Random, longest: float) -> Wait:
    """Waits up to `longest` seconds from the start: imports, restoring, compiling, steps and saves."""
    return lambda training: training.wait_until(training.started + rng.uniform(0.0, longest))


def inside_a_save(rng: random.Random) -> Wait:
    """Waits until a checkpoint is being written: one of the next three."""

    def wait(training: Training) -> bool:
        for _ in range(rng.randrange(1, 4)):
            for saving in (False, True):
                if not training.wait_for(lambda saving=saving: training.is_saving() == saving, every=0.002):
                    return False
        time.sleep(rng.uniform(0.0, 0.05))
        return not training.has_ended()

    return wait


def kill(training: Training, reference: Training, count: int, wait: Wait) -> Counter:
    """`count` times: starts the training, waits, kills all its processes; then lets it end."""
    seen = Counter({"STATES THAT DIFFER": 0, "LOSSES THAT DIFFER": 0, "UNREADABLE NEWEST": 0, "ACKNOWLEDGED LOST": 0})
    while seen["kills"] < count:
        before, step = training.saved(), training.newest_step()
        training.start()
        if not wait(training):
            compare_ends(training, reference, seen)
            seen["ended before the kill"] += 1
            training.begin_anew()
            continue
        acknowledged = training.saved()
        training.kill()
        seen["kills"] += 1
        if "resuming from step" in training.output():
            resumed = int(training.output().split("resuming from step ")[1].split()[0])
            seen["most steps lost"] = max(seen["most steps lost"], step - resumed)
            seen["UNREADABLE NEWEST"] += before[-1] != resumed
        seen["ACKNOWLEDGED LOST"] += not set(acknowledged) <= set(training.saved())
        compare(training, reference, seen)
        seen["kills after new steps"] += training.newest_step() > step
    training.finish()
    compare_ends(training, reference, seen)
    return seen


def sigterm(training: Training, reference: Training, count: int, wait: Wait) -> Counter:
    """SIGTERM at random moments: exit code 0 once it listens, and no step is done twice."""
    seen = Counter({"STATES THAT DIFFER": 0, "LOSSES THAT DIFFER": 0, "STEPS LOST": 0})
    slowest = 0.0
    while seen["signals"] < count:
        training.start()
        if not wait(training):
            compare_ends(training, reference, seen)
            training.begin_anew()
            continue
        begun = time.monotonic()
        code = training.stop()
        slowest = max(slowest, time.monotonic() - begun)
        seen["signals"] += 1
        seen["EXIT CODE NEITHER 0 NOR SIGTERM"] += code not in (0, -signal.SIGTERM)
        seen["STEPS LOST"] += training.newest_step() - max(training.saved(), default=0)
        saving = "SIGTERM: saving" in training.output()
        seen["in training" if saving else "before the first step" if code == 0 else "in imports"] += 1
        compare(training, reference, seen)
    seen["seconds from signal to exit, at most"] = round(slowest, 1)
    return seen


def stall(training: Training, reference: Training, data: Path, count: int) -> Counter:
    """Replaces the shards by pipes to which nobody writes, until the alarm ends the process."""
    seen, found = Counter({"ENDED OTHERWISE": 0}), []
    shards = sorted(data.glob("*.tfrecord"))
    for _ in range(count):
        training.start()
        training.wait_for_step(3)
        for shard in shards:
            shard.rename(shard.with_suffix(".aside"))
            os.mkfifo(shard)
        begun = time.monotonic()
        try:
            seen["ENDED OTHERWISE"] += training.wait() != -signal.SIGALRM
        finally:
            for shard in shards:
                shard.unlink()
                shard.with_suffix(".aside").rename(shard)
        found.append(time.monotonic() - begun)
        seen["stacks written"] += "most recent call first" in training.output()
        compare(training, reference, seen)
    seen["seconds until it was ended"] = " ".join(f"{seconds:.1f}" for seconds in sorted(found))
    return seen


def full_disk(training: Training, reference: Training) -> Counter:
    """No file may grow beyond 64 KiB from some checkpoint on; later it may again."""
    seen: Counter = Counter()
    training.start()
    training.wait_for(lambda: len(training.saved()) >= 2)
    training.kill()
    good = training.saved()
    training.start(file_size_limit=64)
    code = training.wait()
    seen["EXIT CODE NOT 1"], seen["NOT SAID"] = int(code != 1), int("cannot be written" not in training.output())
    seen["steps until it said so"] = training.newest_step() - good[-1]
    seen["GOOD CHECKPOINTS LOST"] = len(set(good) - set(training.saved()))
    training.finish()
    compare_ends(training, reference, seen)
    return seen


def elastic(stages: list[Training], reference: Training) -> Counter:
    """One training, each stage on other devices, stopped after its share of the checkpoints."""
    total = max(reference.saved())
    for number, stage in enumerate(stages, start=1):
        goal = total * number // len(stages)
        stage.start()
        if number < len(stages) and stage.wait_for(lambda s=stage, g=goal: s.saved()[-1:] >= [g]):
            stage.stop()
        elif stage.wait():
            raise RuntimeError(stage.output()[-3000:])
    expected, found = reference.losses(), stages[-1].losses()
    differences = sorted(abs(found[step][0] - expected[step][0]) for step in expected.keys() & found.keys())
    return Counter(
        {
            "STEPS THAT ONLY ONE HAS": len(expected.keys() ^ found.keys()),
            "largest difference of a loss": float(f"{differences[-1]:.2g}"),
            "median": float(f"{differences[len(differences) // 2]:.2g}"),
        }
    )


def faults(training: Training, reference: Training, minutes: float, rng: random.Random) -> Counter:
    """All faults at random for some minutes, under the supervisor; then the training is left to end."""
    seen = Counter({"STATES THAT DIFFER": 0, "LOSSES THAT DIFFER": 0})
    end = time.monotonic() + 60 * minutes
    training.start()
    while time.monotonic() < end:
        if not training.wait_until(time.monotonic() + rng.uniform(2.0, 30.0)):
            compare_ends(training, reference, seen)
            seen["trainings that ended"] += 1
            training.begin_anew()
            training.start()
            continue
        fault = rng.choice(["kill", "sigterm", "damaged checkpoint", "damaged program"])
        seen[f"faults: {fault}"] += 1
        if fault == "sigterm":
            seen[f"exit code {training.stop()} after sigterm"] += 1
            compare(training, reference, seen)
            training.start()
            continue
        if fault == "damaged checkpoint" and (saved := training.saved()):
            damage_one(training.folder / "checkpoints" / str(saved[-1]), rng)
        if fault == "damaged program" and list((training.folder / COMPILED).glob("*-cache")):
            damage_one(training.folder / COMPILED, rng)
        victims = training.supervised_ids()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        training.wait_for(lambda old=set(victims): not old & set(training.supervised_ids()))
        expected = reference.losses()
        seen["LOSSES THAT DIFFER"] += sum(loss != expected[step] for step, loss in training.losses().items())
        seen["restarts by the supervisor"] += 1
    if training.wait():
        raise RuntimeError(training.output()[-3000:])
    compare_ends(training, reference, seen)
    seen["checkpoints quarantined"] = len(list((training.folder / "checkpoints").glob("damaged-*")))
    return seen
