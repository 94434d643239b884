"""When a training is hurt: each moment waits for it, and says whether the training still runs then."""

import random
import time
from collections.abc import Callable

from tests.soak.training import Training

Moment = Callable[[Training], bool]


def at_random(rng: random.Random, longest: float) -> Moment:
    """A moment up to `longest` seconds after the start: imports, restoring, compiling, steps and saves."""

    def wait(training: Training) -> bool:
        end = training.started + rng.uniform(0.0, longest)
        return training.wait_for(lambda: time.monotonic() > end, "moment")

    return wait


def while_it_trains(rng: random.Random, longest: float) -> Moment:
    """A moment up to `longest` seconds after the first new step."""

    def wait(training: Training) -> bool:
        before = training.newest_step()
        if not training.wait_for(lambda: training.newest_step() > before, "step"):
            return False
        end = time.monotonic() + rng.uniform(0.0, longest)
        return training.wait_for(lambda: time.monotonic() > end, "moment")

    return wait


def inside_a_save(rng: random.Random) -> Moment:
    """A moment while a checkpoint is being written."""

    def wait(training: Training) -> bool:
        saves = rng.randrange(1, 4)
        for _ in range(saves):
            if not training.wait_for(lambda: not training.saving(), "end of a save", every=0.002):
                return False
            if not training.wait_for(training.saving, "save", every=0.002):
                return False
        time.sleep(rng.uniform(0.0, 0.05))
        return training.process.poll() is None

    return wait


def seconds_to_first_step(training: Training) -> float:
    """Starts it; from there to its first new step."""
    before = training.newest_step()
    training.start()
    training.wait_for(lambda: training.newest_step() > before, "step")
    return time.monotonic() - training.started
