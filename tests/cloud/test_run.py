"""Runs whose folder is in a bucket: they keep what runs on a disk promise, whatever ends."""

import json

from tests.small import assert_equal_states, small_config
from univip_jax.common.files import at
from univip_jax.run.pretraining import train

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
