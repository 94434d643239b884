"""What the soak test calls identical."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.soak.training import Training
from tests.soak.trials import compare, compare_ends


def training(folder: Path, digests: dict[int, str], losses: dict[int, float]) -> Training:
    """One with these checkpoints and lines of metrics."""
    folder.mkdir()
    for step, digest in digests.items():
        (folder / f"checkpoints/{step}/meta").mkdir(parents=True)
        (folder / f"checkpoints/{step}/meta/metadata").write_text(json.dumps({"digests": {"params": digest}}))
    lines = (json.dumps({"step": step, "train/loss": loss}) for step, loss in losses.items())
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return Training(folder, folder / "data", steps=20, interval=10)


@pytest.fixture
def reference(tmp_path):
    return training(tmp_path / "reference", {10: "a", 20: "b"}, {9: 0.5, 10: 0.25, 13: 0.125})


@pytest.mark.parametrize(
    ("digests", "losses", "expected"),
    [
        ({10: "a"}, {9: 0.5, 10: 0.25}, {"states identical": 1}),
        ({10: "a", 13: "x"}, {13: 0.125}, {"states identical": 1}),  # 13: saved on SIGTERM, which the other was not
        ({10: "x", 13: "y"}, {9: 0.5}, {"STATES THAT DIFFER": 1}),
        ({10: "a", 20: "x"}, {10: 0.26}, {"STATES THAT DIFFER": 1, "LOSSES THAT DIFFER": 1}),
        ({}, {}, {}),
    ],
)
def test_only_checkpoints_that_both_have_are_compared(reference, tmp_path, digests, losses, expected):
    seen = Counter()
    compare(training(tmp_path / "hurt", digests, losses), reference, seen)
    assert +seen == expected


@pytest.mark.parametrize(("digests", "differing"), [({20: "b"}, 0), ({20: "x"}, 1), ({10: "a"}, 1)])
def test_a_training_that_did_not_reach_the_end_differs_there(reference, tmp_path, digests, differing):
    seen = Counter()
    compare_ends(training(tmp_path / "hurt", digests, {9: 0.5}), reference, seen)
    assert seen["FINAL STATES THAT DIFFER"] == differing
