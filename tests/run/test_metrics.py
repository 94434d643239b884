"""The line of progress: how fast steps are, and how long the run will take with all that comes between them."""

import pytest

from univip_jax.run import metrics
from univip_jax.run.metrics import Progress


def test_a_save_slows_the_run_down_but_not_its_steps(monkeypatch, capsys):
    """Steps 1 to 10 and 11 to 20 take 5 s each, and a save between them 10 s; 20 of 60 steps are done."""
    now = 100.0
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now)
    progress = Progress(0, 60, steps_per_epoch=10, batch_size=32)
    progress.begin(stepping=7.0)
    now = 105.0
    assert progress.rate(10, stepping=12.0) == pytest.approx(64)
    now = 120.0
    assert progress.rate(20, stepping=17.0) == pytest.approx(64)
    progress.report(20, 64, {"train/loss": 1.5, "train/loss_ss": 1.25})
    assert capsys.readouterr().out == "step 20/60  epoch 2.0  loss 1.500 (ss 1.250)  64 images/s  40 s left\n"
