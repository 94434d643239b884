"""Every second of a run has a kind; what an interruption undid is lost, and the time between attempts is down."""

import json

import pytest

from univip_jax.run import clock as clocks
from univip_jax.run.clock import KINDS, Clock


class Now:
    """Seconds since the epoch, as told."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(clocks.time, "time", lambda: self.now)
        self._monkeypatch = monkeypatch

    def new_process(self):
        self._monkeypatch.setattr(clocks, "STARTED", self.now)


@pytest.fixture
def clock(monkeypatch):
    clock = Now(monkeypatch)
    clock.new_process()
    return clock


def seconds(ledger: Clock) -> dict[str, float]:
    metrics = ledger.write()
    return {kind: metrics[f"goodput/{kind}_seconds"] for kind in KINDS if metrics[f"goodput/{kind}_seconds"]}


def test_an_attempt_is_split_by_what_was_done(clock, tmp_path):
    clock.now += 3  # imports
    ledger = Clock(tmp_path)
    for kind, length in (("restore", 2), ("compile", 5)):
        with ledger.spend(kind):
            clock.now += length
    ledger.train_from_now(0.0)
    clock.now += 50
    with ledger.spend("save"):
        clock.now += 1
    with pytest.raises(ZeroDivisionError), ledger.spend("data"):
        clock.now += 4
        1 / 0  # noqa: B018
    clock.now += 35
    assert seconds(ledger) == {"start": 3, "restore": 2, "compile": 5, "train": 85, "save": 1, "data": 4}
    assert ledger.write()["goodput/share"] == 0.85
    assert ledger.summary() == (
        "goodput   85.0 % of 100 s in 1 attempt was training; compile 5.0 %, data 4.0 %, start 3.0 %, restore 2.0 %, "
        "save 1.0 %"
    )


def test_a_second_attempt_counts_what_is_done_again_and_the_time_between(clock, tmp_path):
    first = Clock(tmp_path)
    first.train_from_now(0.0)
    clock.now += 40
    first.write()  # the checkpoint that the next goes on from was saved here
    clock.now += 25
    first.write()
    clock.now += 7  # then it was killed, and started again
    clock.new_process()
    clock.now += 3
    second = Clock(tmp_path)
    second.train_from_now(40.0)
    clock.now += 25
    assert seconds(second) == {"train": 65, "lost": 25, "down": 7, "start": 3}
    assert json.loads((tmp_path / "goodput.json").read_text())["attempts"] == second.attempts == 2


def test_a_ledger_that_was_cut_off_begins_anew_and_one_of_none_writes_nothing(clock, tmp_path):
    (tmp_path / "goodput.json").write_text('{"updated": 1')
    ledger = Clock(tmp_path)
    assert ledger.attempts == 1
    clock.now += 2
    assert seconds(ledger) == {"start": 2}
    nothing = Clock(None)
    nothing.write()
    assert [path.name for path in tmp_path.iterdir()] == ["goodput.json"]
