"""The supervisor, with small scripts in place of a training."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 60  # s, for what takes far less than one

# Every script begins so: `start` is 1 at the first start; `tell` writes a file that the test reads, whole.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
run = Path(sys.argv[1].removeprefix("--workdir="))
run.mkdir(exist_ok=True)
start = len(list(run.glob("start-*"))) + 1

def tell(name, text=""):
    (run / "new").write_text(str(text))
    (run / "new").rename(run / name)

def save(step):
    (run / "checkpoints" / str(step)).mkdir(parents=True)

tell(f"start-{start}", os.getpid())
"""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntell('ready')\nwhile True: time.sleep(0.01)"


class Supervised:
    """A supervisor of a script, and what the script told."""

    def __init__(self, folder: Path, script: str, *flags: str):
        self.run, self._out, self._err = folder / "run", folder / "out.txt", folder / "err.txt"
        command = [sys.executable, "-m", "univip_jax.run.supervise", "--backoff=0.01", *flags]
        command += ["--", sys.executable, "-c", SCRIPT + script, f"--workdir={self.run}"]
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err)

    def wait(self) -> int:
        return self.process.wait(TIMEOUT)

    def wait_for(self, condition) -> None:
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, self.err
            time.sleep(0.005)

    def wait_for_file(self, name: str) -> None:
        self.wait_for((self.run / name).exists)

    def starts(self) -> int:
        return len(list(self.run.glob("start-*")))

    def pid(self) -> int:
        return int((self.run / "start-1").read_text())

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()


@pytest.fixture
def supervise(tmp_path):
    """Starts supervisors, and ends them after the test."""
    started = []

    def start(script: str, *flags: str) -> Supervised:
        started.append(Supervised(tmp_path, script, *flags))
        return started[-1]

    yield start
    for supervised in started:
        supervised.process.kill()
        supervised.process.wait()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_supervise_restarts_a_killed_command_and_prints_one_line(supervise):
    supervised = supervise("if start == 1: os.kill(os.getpid(), signal.SIGKILL)\nprint(sys.argv[1:])")
    assert supervised.wait() == 0
    assert supervised.starts() == 2
    line = r"supervise: signal 9 \(Killed\) after 0:\d\d:\d\d; restart 1 of 3 without progress, in 0.01 s\n"
    assert re.fullmatch(line, supervised.err)
    assert supervised.out == f"['--workdir={supervised.run}']\n"  # as the command wrote it


def test_supervise_gives_up_without_progress(supervise):
    """Only the first start saves a checkpoint."""
    supervised = supervise("if start == 1: save(7)\nsys.exit(75)", "--max_restarts=2")
    assert supervised.wait() == 75
    assert supervised.starts() == 3
    assert re.findall(r"restart (\d) of 2 without progress, in ([\d.]+) s", supervised.err) == [
        ("1", "0.01"),
        ("2", "0.02"),
    ]
    assert "exit code 75" in supervised.err and "gave up after 2 restarts" in supervised.err.splitlines()[-1]


def test_supervise_with_progress_never_gives_up(supervise):
    script = "if start == 6: sys.exit(0)\nsave(10 * start)\nos.kill(os.getpid(), signal.SIGSEGV)"
    supervised = supervise(script, "--max_restarts=1")
    assert supervised.wait() == 0
    assert supervised.starts() == 6
    assert supervised.err.count("signal 11 (Segmentation fault)") == 5


def test_supervise_ends_at_a_mistake(supervise):
    supervised = supervise("sys.exit(1)")
    assert supervised.wait() == 1
    assert supervised.starts() == 1
    assert re.fullmatch(
        r"supervise: exit code 1 after .*; no restart, which would repeat the mistake\n", supervised.err
    )


@pytest.mark.parametrize(
    ("signum", "ends_with", "code"), [("SIGTERM", 0, 0), ("SIGTERM", 143, 143), ("SIGTERM", 3, 3), ("SIGINT", 1, 130)]
)
def test_supervise_forwards_a_signal_once_and_does_not_restart(supervise, signum, ends_with, code):
    supervised = supervise(
        "def stop(signum, frame):\n"
        "    tell(f'signal-{signum}-{time.monotonic()}')\n"
        "    time.sleep(0.3)\n"  # as a save: more of the supervisor's looks
        f"    sys.exit({ends_with})\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "signal.signal(signal.SIGINT, stop)\n"
        "tell('ready')\n"
        "while True: time.sleep(0.01)"
    )
    supervised.wait_for_file("ready")
    supervised.process.send_signal(signal.Signals[signum])
    assert supervised.wait() == code
    assert [path.name.split("-")[1] for path in supervised.run.glob("signal-*")] == [str(int(signal.Signals[signum]))]
    assert supervised.starts() == 1
    assert supervised.err == f"supervise: {signum} forwarded; SIGKILL after 120 s, or at a second signal\n"


def test_supervise_ends_at_a_signal_between_two_starts(supervise):
    supervised = supervise("sys.exit(75)", "--backoff=1000")
    supervised.wait_for(lambda: ", in 300 s" in supervised.err)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.wait() == 75
    assert supervised.starts() == 1


@pytest.mark.parametrize("how", ["grace", "second signal"])
def test_supervise_kills_a_command_that_ignores_sigterm(supervise, how):
    supervised = supervise(DEAF, "--grace=0.1" if how == "grace" else "--grace=1000")
    supervised.wait_for_file("ready")
    supervised.process.send_signal(signal.SIGTERM)
    if how == "second signal":
        supervised.wait_for(lambda: "forwarded" in supervised.err)
        supervised.process.send_signal(signal.SIGTERM)
    assert supervised.wait() == 128 + signal.SIGKILL
    assert supervised.starts() == 1
    assert not alive(supervised.pid())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_supervise_killed_leaves_no_command(supervise):
    supervised = supervise(DEAF)
    supervised.wait_for_file("ready")
    assert alive(supervised.pid())
    supervised.process.kill()
    supervised.wait_for(lambda: not alive(supervised.pid()))


def test_supervise_leaves_no_child_of_the_command(supervise):
    supervised = supervise(
        "import subprocess\n"
        "tell('child', subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)']).pid)"
    )
    assert supervised.wait() == 0
    supervised.wait_for(lambda: not alive(int((supervised.run / "child").read_text())))


def test_command_line_of_supervise_refuses_misuse():
    command = [sys.executable, "-m", "univip_jax.run.supervise", "--", "no-such-program"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


def test_supervise_imports_no_jax():
    """It stays in memory as long as the run, and a restart should not wait for it."""
    code = "import sys, univip_jax.run.supervise; print([m for m in ('jax', 'orbax', 'numpy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "[]\n", result.stderr
