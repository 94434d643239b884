"""The line of progress: how fast steps are, how long the run will take, and that it is never silent for long."""

from types import SimpleNamespace

import pytest

from univip_jax.run import log
from univip_jax.run.log import Progress

PLAN = SimpleNamespace(total_steps=60, steps_per_epoch=10, batch_size=32)


class Times:
    """A wall clock, and a run's clock whose `stepping` is the time less 10 s of saving."""

    def __init__(self, monkeypatch):
        self.now = self.spent = 100.0
        monkeypatch.setattr(log.time, "perf_counter", lambda: self.now)

    def stepping(self) -> float:
        return self.spent


@pytest.fixture
def times(monkeypatch):
    return Times(monkeypatch)


def test_progress_counts_a_save_in_the_time_left_but_not_in_the_rate(times, capsys):
    """Steps 1 to 10 and 11 to 20 take 5 s each, and a save between them 10 s; 20 of 60 steps are done."""
    progress = Progress(0, PLAN, times)
    progress.begin()
    times.now, times.spent = 105.0, 105.0
    assert progress.rate(10) == pytest.approx(64)
    times.now, times.spent = 120.0, 110.0
    assert progress.rate(20) == pytest.approx(64)
    progress.print(20, {"train/loss": 1.5, "train/loss_ss": 1.25}, 64)
    assert capsys.readouterr().out == "step 20/60  epoch 2.0  loss 1.500 (ss 1.250)  64 images/s  40 s left\n"


def test_progress_comes_with_the_first_step_then_by_time(times, capsys):
    """After 10 s of silence; 1,000 s into the run after 5 % of that; a line of the log counts too."""
    progress = Progress(0, PLAN, times)
    progress.begin()
    times.now = times.spent = 140.0  # 40 s a step: 32 images in 40 s
    assert progress.is_due()
    progress.print(1, {"train/loss": 1.5})
    assert capsys.readouterr().out == "step 1/60  epoch 0.1  loss 1.500 ()  0.8 images/s  39 min 20 s left\n"
    for now, due in ((149.0, False), (151.0, True)):
        times.now = now
        assert progress.is_due() is due
    times.now = 1100.0
    progress.print(20, {"train/loss": 1.5}, 1.0)
    for now, due in ((1150.0, False), (1155.0, True)):
        times.now = now
        assert progress.is_due() is due
    times.now = 1e6
    progress.print(50, {"train/loss": 1.5}, 1.0)
    for now, due in ((1e6 + 599, False), (1e6 + 601, True)):
        times.now = now
        assert progress.is_due() is due
