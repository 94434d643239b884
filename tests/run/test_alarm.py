"""A process that stands still is ended, however it does; one that steps is not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from univip_jax.run import clock as clocks
from univip_jax.run.clock import Alarm, Clock

ROOT = Path(__file__).parents[2]
PROGRAM = """
import ctypes, time
from univip_jax.run.clock import Clock

def stand_still():
    {stall}

with Clock(None, {seconds}) as clock:
    clock.train_from_now(0.0)
    for _ in range(20):
        time.sleep(0.01)
        clock.step()
    print("steps", flush=True)
    stand_still()
time.sleep({after})
print("end")
"""
TIMEOUT = 60  # s


def run(stall: str, seconds: float, after: float = 0.0) -> subprocess.CompletedProcess:
    program = PROGRAM.format(stall=stall, seconds=seconds, after=after)
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)


@pytest.mark.parametrize(
    "stall",
    [
        "time.sleep(600)",  # as a loader that never answers
        "ctypes.PyDLL(None).sleep(600)",  # with the interpreter's lock held: no Python thread runs
        "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",  # a dead lock
    ],
)
def test_alarm_ends_a_stalled_process_with_its_stacks(stall):
    ended = run(stall, seconds=2)
    assert ended.returncode == -signal.SIGALRM
    assert ended.stdout == "steps\n"
    assert "in stand_still" in ended.stderr


@pytest.fixture
def limits(monkeypatch):
    """The seconds that each new alarm allows; nothing waits, so that a machine under load passes."""
    limits = []
    monkeypatch.setattr(Alarm, "set", lambda alarm, seconds: limits.append(seconds))
    return limits


def test_alarm_allows_ten_times_the_median_step_or_stall_seconds(limits, monkeypatch):
    now = 100.0
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now)
    clock = Clock(None, 0.5)
    clock.train_from_now(0.0)
    for step, limit in ((0.01, 0.5), (0.2, 1.05), (0.2, 2.0), (60.0, 2.0), (0.2, 2.0)):
        now += step
        clock.step()
        assert limits[-1] == pytest.approx(limit)


def test_alarm_allows_a_save_ten_times_stall_seconds(limits):
    clock = Clock(None, 0.3)
    clock.train_from_now(0.0)
    with clock.spend("save"):
        assert limits[-1] == pytest.approx(3.0)
    assert limits[-1] == pytest.approx(0.3)


def test_alarm_leaves_a_slow_batch_within_its_step(limits):
    """Waiting for data is a part of the step: it must not buy ten times the patience."""
    clock = Clock(None, 0.3)
    clock.train_from_now(0.0)
    before = list(limits)
    with clock.spend("data"):
        assert limits == before
    assert limits == before


@pytest.mark.parametrize("seconds", [2, 0])
def test_alarm_is_off_after_the_run_and_where_it_is_zero(seconds):
    after = run("pass", seconds, after=2.5)
    assert (after.returncode, after.stdout.split(), after.stderr) == (0, ["steps", "end"], "")


def test_alarm_ends_a_process_whose_disk_never_delivers_a_module(tmp_path):
    # The first of the slow imports: those before it may take longer than the alarm allows.
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("import time\ntime.sleep(600)\n")
    command = ["main.py", "--config=configs/demo.py", f"--workdir={tmp_path / 'run'}", "--config.stall_seconds=0.5"]
    result = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
    )
    assert result.returncode == -signal.SIGALRM
    assert f'File "{tmp_path / "jax" / "__init__.py"}", line 2' in result.stderr
