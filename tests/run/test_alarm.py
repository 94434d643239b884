"""A process that stands still is ended, however it does; one that steps is not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import ctypes, time
from univip_jax.run.clock import Clock

def stand_still():
    {stall}

with Clock(None, {seconds}) as clock:
    clock.train_from_now(0.0)
    for _ in range(20):
        time.sleep({step})
        clock.step()
    print("steps", flush=True)
    stand_still()
time.sleep({after})
print("end")
"""
TIMEOUT = 60  # s


def run(stall: str, seconds: float, step: float = 0.01, after: float = 0.0) -> subprocess.CompletedProcess:
    program = PROGRAM.format(stall=stall, seconds=seconds, step=step, after=after)
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
    ended = run(stall, seconds=1)
    assert ended.returncode == -signal.SIGALRM
    assert ended.stdout == "steps\n"
    assert "in stand_still" in ended.stderr


def test_alarm_allows_ten_times_the_median_step():
    slow = run("time.sleep(1.2); clock.step()", seconds=0.5, step=0.2)
    assert (slow.returncode, slow.stdout.split()) == (0, ["steps", "end"])


def test_alarm_allows_a_save_ten_times_stall_seconds():
    saving = run("with clock.spend('save'): time.sleep(1.5)", seconds=0.3)
    assert (saving.returncode, saving.stdout.split()) == (0, ["steps", "end"])


def test_alarm_leaves_a_slow_batch_within_its_step():
    """Waiting for data is a part of the step: it must not buy ten times the patience."""
    waiting = run("with clock.spend('data'): time.sleep(600)", seconds=0.5)
    assert waiting.returncode == -signal.SIGALRM


@pytest.mark.parametrize("seconds", [0.2, 0])
def test_alarm_is_off_after_the_run_and_where_it_is_zero(seconds):
    after = run("pass", seconds, after=0.5)
    assert (after.returncode, after.stdout.split(), after.stderr) == (0, ["steps", "end"], "")


def test_alarm_ends_a_process_whose_disk_never_delivers_a_module(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("import time\ntime.sleep(600)\n")
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
    assert f'File "{tmp_path / "tensorflow" / "__init__.py"}", line 2' in result.stderr
