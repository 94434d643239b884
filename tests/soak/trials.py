"""Trials: each hurts a training in one way, again and again, and compares it with one that was left alone."""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tests.soak.damage import damage_one
from tests.soak.moments import Moment, at_random, while_it_trains
from tests.soak.training import COMPILED, Training


def compare(training: Training, reference: Training, seen: Counter) -> None:
    """Whether the newest checkpoint that both have and all losses are bit for bit those of the undisturbed training."""
    if common := set(training.saved()) & set(reference.saved()):
        same = training.digests(max(common)) == reference.digests(max(common))
        seen["states identical" if same else "STATES THAT DIFFER"] += 1
    expected = reference.losses()
    differing = [step for step, loss in training.losses().items() if loss != expected[step]]
    seen["LOSSES THAT DIFFER"] += len(differing)


def compare_ends(training: Training, reference: Training, seen: Counter) -> None:
    """As `compare`, of two trainings that should be at their end."""
    compare(training, reference, seen)
    final = max(reference.saved())
    same = final in training.saved() and training.digests(final) == reference.digests(final)
    seen["FINAL STATES THAT DIFFER"] += not same


def kill_again_and_again(training: Training, reference: Training, count: int, wait: Moment) -> Counter:
    """`count` times: starts it, waits for the moment, `kill -9`; then lets it end."""
    seen = Counter({"STATES THAT DIFFER": 0, "LOSSES THAT DIFFER": 0, "UNREADABLE NEWEST": 0, "ACKNOWLEDGED LOST": 0})
    while seen["kills"] < count:
        before, step = training.saved(), training.newest_step()
        output = len(training.output())
        training.start()
        if not wait(training):
            seen["ended before the kill"] += 1
            if training.process.returncode:
                raise RuntimeError(training.output()[-2000:])
            compare(training, reference, seen)
            training.begin_anew()
            continue
        acknowledged = training.saved()
        training.kill()
        seen["kills"] += 1
        printed = training.output()[output:]
        if "resuming from step" in printed:
            resumed = int(printed.split("resuming from step ")[1].split()[0])
            seen["most steps lost"] = max(seen["most steps lost"], step - resumed)
            seen["UNREADABLE NEWEST"] += before[-1] != resumed
        seen["ACKNOWLEDGED LOST"] += not set(acknowledged) <= set(training.saved())
        compare(training, reference, seen)
        if training.newest_step() > step and "compiling" in printed:
            seen["went on"] += 1
    training.finish()
    compare_ends(training, reference, seen)
    return seen


def sigterm(training: Training, reference: Training, count: int, rng: random.Random, longest: float) -> Counter:
    """SIGTERM at random moments: exit code 0 once it listens, and no step is done twice."""
    seen = Counter({"STATES THAT DIFFER": 0, "LOSSES THAT DIFFER": 0, "STEPS LOST": 0})
    slowest = 0.0
    while seen["signals"] < count:
        output = len(training.output())
        training.start()
        if not at_random(rng, longest)(training):
            compare(training, reference, seen)
            training.begin_anew()
            continue
        begun = time.monotonic()
        code = training.stop()
        slowest = max(slowest, time.monotonic() - begun)
        seen["signals"] += 1
        seen["exit code 0" if code == 0 else f"before it listened (code {code})"] += 1
        step = training.newest_step()
        seen["STEPS LOST"] += step - max(training.saved(), default=0)
        printed = training.output()[output:]
        phase = "saving a step" if "SIGTERM: saving" in printed else "before the first step" if code == 0 else "imports"
        seen[f"while {phase}"] += 1
        compare(training, reference, seen)
    seen["seconds from signal to exit, at most"] = round(slowest, 1)
    return seen


def kill_ranks(training: Training, reference: Training, count: int, rng: random.Random, longest: float) -> Counter:
    """`kill -9` of a random rank under the supervisor, which ends the others and starts all again.

    Every other kill waits for a new step: a start takes many times the seconds of all steps.
    """
    moments = (while_it_trains(rng, longest / 4), at_random(rng, longest))
    seen = Counter({"STATES THAT DIFFER": 0, "LOSSES THAT DIFFER": 0})
    stopping: list[float] = []
    training.start()
    while seen["kills"] < count:
        ended = not training.wait_for(lambda: len(training.rank_ids()) == training.ranks, "ranks")
        if not ended:
            ended = not moments[seen["kills"] % 2](training)
        if ended:
            if training.process.returncode:
                raise RuntimeError(training.output()[-3000:])
            compare(training, reference, seen)
            training.begin_anew()
            training.start()
            continue
        ranks = training.rank_ids()
        if len(ranks) < training.ranks:
            continue
        os.kill(rng.choice(ranks), signal.SIGKILL)
        begun = time.monotonic()
        training.wait_for(lambda old=set(ranks): not old & set(training.rank_ids()), "end of the other ranks")
        stopping.append(time.monotonic() - begun)
        seen["kills"] += 1
        compare(training, reference, seen)
        training.started = time.monotonic()
    training.process.wait()
    compare_ends(training, reference, seen)
    seen["seconds until the others stopped, median"] = round(sorted(stopping)[len(stopping) // 2], 2)
    seen["seconds until the others stopped, at most"] = round(max(stopping), 2)
    return seen


def stalls(training: Training, data: Path, count: int) -> Counter:
    """Seconds from a stall to the end of the process, which then goes on: stopped, or with a stuck loader."""
    seen: Counter = Counter()
    for kind in ("stopped", "stuck loader"):
        found = []
        for _ in range(count):
            training.start()
            begun_at = training.newest_step()
            training.wait_for(lambda old=begun_at: training.newest_step() > old + 2, "steps")
            if kind == "stopped":
                begun = time.monotonic()
                training.process.send_signal(signal.SIGSTOP)
                training.process.wait()
            else:
                begun = _starve(training, data)
            found.append(time.monotonic() - begun)
        seen[f"{kind}: seconds until it was ended"] = " ".join(f"{seconds:.1f}" for seconds in sorted(found))
    seen["stacks written"] = training.output().count("Current thread")
    return seen


def _starve(training: Training, data: Path) -> float:
    """Puts pipes that nobody writes to in place of the shards, until the process is ended; when that began."""
    shards = sorted(data.glob("*.tfrecord"))
    for shard in shards:
        aside = shard.with_suffix(".aside")
        shard.rename(aside)
        os.mkfifo(shard)
    begun = time.monotonic()
    try:
        training.process.wait()
    finally:
        for shard in shards:
            shard.unlink()
            shard.with_suffix(".aside").rename(shard)
    return begun


def faults(training: Training, reference: Training, minutes: float, rng: random.Random) -> Counter:
    """All of it at random for some minutes, under the supervisor; then it is left to end."""
    seen = Counter({"STATES THAT DIFFER": 0, "LOSSES THAT DIFFER": 0})
    end = time.monotonic() + 60 * minutes
    training.start()
    while time.monotonic() < end:
        kind = rng.choice(["kill", "stop", "sigterm", "damaged checkpoint", "damaged program"])
        moment = time.monotonic() + rng.uniform(2.0, 30.0)
        ended = not training.wait_for(lambda m=moment: time.monotonic() > m and bool(training.rank_ids()), "moment")
        if ended:
            if training.process.returncode:
                raise RuntimeError(training.output()[-3000:])
            compare(training, reference, seen)
            seen["trainings that ended"] += 1
            training.begin_anew()
            training.start()
            continue
        victim = rng.choice(training.rank_ids() or [0])
        if not victim or (kind == "stop" and not training.is_watched(victim)):
            continue
        seen[f"faults: {kind}"] += 1
        if kind == "sigterm":
            seen[f"exit code {training.stop()} after sigterm"] += 1
            compare(training, reference, seen)
            training.start()
            continue
        if kind == "damaged checkpoint" and (saved := training.saved()):
            damage_one(training.folder / "checkpoints" / str(saved[-1]), rng)
        if kind == "damaged program" and list((training.folder / COMPILED).glob("*-cache")):
            damage_one(training.folder / COMPILED, rng)
        os.kill(victim, signal.SIGSTOP if kind == "stop" else signal.SIGKILL)
        training.wait_for(lambda v=victim: v not in training.rank_ids(), "end of the rank")
        expected = reference.losses()
        seen["LOSSES THAT DIFFER"] += sum(loss != expected[step] for step, loss in training.losses().items())
    if training.process.wait():
        raise RuntimeError(training.output()[-3000:])
    compare_ends(training, reference, seen)
    seen["checkpoints set aside"] = training.output().count("quarantined as")
    seen["restarts by the supervisor"] = training.output().count("restart")
    return seen


def elastic(stages: list[Training], reference: Training) -> Counter:
    """One training, each stage of it on other devices, killed after its share of the checkpoints."""
    seen: Counter = Counter()
    total = max(reference.saved())
    for number, stage in enumerate(stages, start=1):
        stage.start()
        goal = total * number // len(stages)
        if number < len(stages) and stage.wait_for(lambda s=stage, g=goal: s.saved()[-1:] >= [g], "checkpoint"):
            stage.stop()
        elif stage.process.wait():
            raise RuntimeError(stage.output()[-3000:])
    expected, found = reference.losses(), stages[-1].losses()
    seen["STEPS THAT ONLY ONE HAS"] = len(expected.keys() ^ found.keys())
    differences = [abs(found[step][0] - expected[step][0]) for step in sorted(expected)]
    seen["largest difference of a loss"] = float(f"{max(differences):.2g}")
    seen["median"] = float(f"{sorted(differences)[len(differences) // 2]:.2g}")
    return seen


def memory(training: Training) -> Counter:
    """What resident memory grows by over the second half of an undisturbed training."""
    samples = []
    training.start()
    while training.process.poll() is None:
        time.sleep(1.0)
        with contextlib.suppress(OSError, IndexError):  # it has just ended
            status = Path(f"/proc/{training.process.pid}/status").read_text()
            samples.append((training.newest_step(), int(status.split("VmRSS:")[1].split()[0]) / 1024))
    half = [sample for sample in samples if sample[0] > samples[-1][0] / 2]
    slope = np.polyfit(*np.array(half).T, 1)[0]
    return Counter(
        {"steps": samples[-1][0], "MB in the end": round(half[-1][1]), "MB per 1000 steps": round(1000 * slope, 2)}
    )
