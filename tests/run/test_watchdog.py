"""A process that stands still is ended, however it does; one that steps is not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import ctypes, faulthandler, time
from univip_jax.run.watchdog import Watchdog

faulthandler.enable()

def stand_still():
    {stall}

with Watchdog({seconds}) as watchdog:
    print(watchdog._process.pid if watchdog._process else 0, flush=True)
    watchdog.resume()
    for _ in range(20):
        time.sleep({step})
        watchdog.step()
    print("steps", flush=True)
    stand_still()
print("end")
"""
TIMEOUT = 60  # s


def start(stall: str, seconds: float, step: float = 0.05) -> subprocess.Popen:
    program = PROGRAM.format(stall=stall, seconds=seconds, step=step)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **pipes)


@pytest.mark.parametrize(
    "stall",
    [
        "time.sleep(600)",  # as a loader that never answers
        "ctypes.PyDLL(None).sleep(600)",  # with the interpreter's lock held: no Python thread runs
    ],
)
def test_a_stall_ends_the_process_with_its_stacks(stall):
    process = start(stall, 1)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == -signal.SIGABRT
    assert "steps" in out and "end" not in out
    assert f"process {process.pid} is ended; its stacks follow" in err
    assert "in stand_still" in err


def test_a_stopped_process_is_killed():
    process = start("time.sleep(600)", 1)
    assert process.stdout.readline() and process.stdout.readline() == "steps\n"
    process.send_signal(signal.SIGSTOP)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == -signal.SIGKILL
    assert "does not answer, being stopped: killed" in err


@pytest.mark.parametrize("seconds", [30, 0])
def test_a_process_that_ends_leaves_no_watchdog_behind(seconds):
    process = start("pass", seconds)
    out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, err) == (0, "")
    child = int(out.split()[0])
    assert bool(child) == bool(seconds) and out.split()[1:] == ["steps", "end"]
    assert not child or not Path(f"/proc/{child}").exists()


def test_the_watchdog_of_a_killed_process_ends_too():
    process = start("time.sleep(600)", 30)
    child = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=TIMEOUT)
    end = time.monotonic() + TIMEOUT
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_outlives_its_watchdog():
    process = start("time.sleep(0.1); watchdog.step(); watchdog.step()", 30)
    os.kill(int(process.stdout.readline()), signal.SIGKILL)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0 and out.split() == ["steps", "end"]
    assert "the watchdog has died; the run goes on without it" in err


def test_a_stall_is_ten_times_the_median_step_where_that_is_more():
    slow = start("time.sleep(1.2); watchdog.step()", seconds=0.5, step=0.2)
    out, _ = slow.communicate(timeout=TIMEOUT)
    assert (slow.returncode, out.split()[1:]) == (0, ["steps", "end"])


def test_a_module_that_a_disk_never_gives_ends_the_process(tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("import time\ntime.sleep(600)\n")
    command = ["main.py", "--config=configs/demo.py", f"--workdir={tmp_path / 'run'}", "--config.stall_seconds=1"]
    result = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
    )
    assert result.returncode == -signal.SIGABRT
    assert f'File "{tmp_path / "tensorflow" / "__init__.py"}", line 2' in result.stderr
