"""A supervisor of small scripts instead of trainers, and what these tell of themselves: for its tests."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT = 60  # s, for what takes far less than one

# What every script begins with: `rank`, `start` (1 for the first), `run`, and ways to tell the test.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
flags = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[1:] if "=" in flag)
run, rank = Path(flags["workdir"]), int(flags.get("process_id", 0))
run.mkdir(exist_ok=True)
start = len(list(run.glob(f"start-{rank}-*"))) + 1

def tell(name, text=""):
    (run / f"new-{rank}").write_text(str(text))
    (run / f"new-{rank}").rename(run / name)

def wait_for(name):
    while not (run / name).exists():
        time.sleep(0.001)

def save(step):
    (run / "checkpoints" / str(step)).mkdir(parents=True)

tell(f"start-{rank}-{start}", os.getpid())
"""

# Scripts: one that saves when it is told to, and one that does not listen.
SAVES = """
def stop(signum, frame):
    tell(f"signal-{rank}-{signum}")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
tell(f"ready-{rank}")
while True:
    time.sleep(0.01)
"""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntell(f'ready-{rank}')\nwhile True: time.sleep(0.01)"


class Supervised:
    """A supervisor of ranks that run `script`, and what they told."""

    def __init__(self, folder: Path, script: str, *flags: str):
        self.run = folder / "run"
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        command = [sys.executable, "-m", "univip_jax.run.supervise", "--backoff=0.01", *flags]
        command += ["--", sys.executable, "-c", SCRIPT + script, f"--workdir={self.run}"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err)

    def wait(self) -> int:
        return self.process.wait(TIMEOUT)

    def wait_for(self, condition) -> None:
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, self.err
            time.sleep(0.005)

    def wait_for_file(self, *names: str) -> None:
        self.wait_for(lambda: all((self.run / name).exists() for name in names))

    def starts(self, rank: int = 0) -> int:
        return len(list(self.run.glob(f"start-{rank}-*")))

    def pid(self, rank: int, start: int = 1) -> int:
        return int((self.run / f"start-{rank}-{start}").read_text())

    @property
    def out(self) -> str:
        return self._out.read_bytes().decode()  # \r stays \r

    @property
    def err(self) -> str:
        return self._err.read_text()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def starter(folder: Path) -> Iterator[Callable[..., Supervised]]:
    """For a fixture: yields what starts supervisors, `supervise(script, *flags)`, and ends them after the test."""
    started = []

    def supervise(script: str, *flags: str) -> Supervised:
        started.append(Supervised(folder, script, *flags))
        return started[-1]

    yield supervise
    for supervised in started:
        supervised.process.kill()
        supervised.process.wait()
