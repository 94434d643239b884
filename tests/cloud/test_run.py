"""Runs whose folder is in a bucket: they keep what runs on a disk promise, whatever ends."""

import json
import random
import re
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.cloud.tiny import CONFIG, Processes, open_tiny, train_tiny
from tests.small import assert_equal_states, small_config
from univip_jax.common.files import at
from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.run.pretraining import train
from univip_jax.run.staged import committed
from univip_jax.sharding import make_mesh, replicated

ROOT = Path(__file__).parents[2]

STEPS = 40  # of a tiny run
TIMES = ("goodput/", "train/images_per_second")


def values(run) -> list[dict]:
    """The lines of metrics.jsonl, without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(TIMES)} for line in lines]


def names(run) -> set[str]:
    """Of the files of a run, but those whose names hold a time, and checkpoints."""
    files = (str(path)[len(str(run)) + 1 :] for path in run.rglob("*") if path.is_file())
    return {name for name in files if not name.startswith(("checkpoints/", "compiled/", "events."))}


def test_a_training_in_a_bucket_equals_one_on_a_disk(run, data, bucket):
    again = at(bucket)
    train(small_config(data), again)
    assert_equal_states(run, again, 4)
    assert_equal_states(run, again, 2)
    assert values(again) == values(run)
    assert names(again) == names(run)
    for name in ("plans.npz", "first_batch.png"):
        assert (again / name).read_bytes() == (run / name).read_bytes()
    events = [path for path in again.iterdir() if path.name.startswith("events.")]
    assert len(events) == 1 and events[0].read_bytes().count(b"train/loss") > 4


def newest(run) -> tuple[int, dict]:
    """The newest checkpoint of a tiny run."""
    like = jax.eval_shape(open_tiny(ConfigDict(CONFIG), run, 1, 1).init_state)
    with Checkpoints(run, Retention(9)) as checkpoints:
        step, state, _ = checkpoints.restore_newest(like, replicated(make_mesh()))
    return step, jax.device_get(state)


def assert_same_end(one, other) -> None:
    """Two tiny runs: the newest states bit for bit, and the metrics."""
    (step, expected), (last, found) = newest(one), newest(other)
    assert step == last
    jax.tree.map(np.testing.assert_array_equal, expected, found)
    assert values(one) == values(other)


@pytest.fixture
def processes(tmp_path):
    return Processes(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A tiny run on a disk."""
    folder = tmp_path_factory.mktemp("whole")
    train_tiny(folder, STEPS, 2)
    return folder


@pytest.mark.parametrize(("kind", "kills", "requests"), [("gs", 10, 400), ("s3", 3, 120)])
def test_killed_at_any_moment_a_run_ends_with_the_same_bits_and_loses_no_checkpoint(
    request, servers, whole, processes, kind, kills, requests
):
    """A process is killed after a random number of requests; the next begins from what counted then."""
    run, faults = at(request.getfixturevalue(kind)), getattr(servers, kind).faults
    draw, reached = random.Random(kills), 0
    for _ in range(kills):
        end = faults.num_requests + draw.randrange(requests)
        process = processes.start(run, STEPS)
        while process.is_alive() and faults.num_requests < end:
            time.sleep(0.002)
        process.kill()
        process.join()
        printed = processes.printed()
        assert process.exitcode == -signal.SIGKILL, printed
        if resumed := re.findall(r"^resuming from step (\d+)", printed, re.M):
            assert [int(step) for step in resumed] == [reached]
        steps = [int(step) for step in re.findall(r"^step (\d+)/", printed, re.M)]
        assert not steps or resumed or not reached
        saved = committed(run / "checkpoints")
        reached = max(saved, default=0)
        assert not steps or reached >= steps[-1] - 5  # a save waits for the one before it
        assert len(saved) <= 4
    process = processes.start(run, STEPS)
    process.join()
    assert process.exitcode == 0, processes.printed()
    assert committed(run / "checkpoints") == [STEPS - 2, STEPS]
    left = {path.name for path in (run / "checkpoints").iterdir()}
    assert left == {str(STEPS - 2), str(STEPS)}, "what interruptions left is gone"
    assert_same_end(whole, run)
