"""A training that is started, hurt and started again, and what can be read of it from outside."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from univip_jax.run.compiled import FOLDER as COMPILED
from univip_jax.run.log import read_metrics

_TIMEOUT = 900  # s, for what should take seconds


class Training:
    """`main.py` on a small config in a folder of its own, alone or as ranks under `univip_jax.run.supervise`."""

    def __init__(
        self,
        folder: Path,
        data: Path,
        *,
        steps: int,
        interval: int,
        ranks: int = 0,
        devices: int = 1,
        stall: float = 60.0,
        float64: bool = False,
    ):
        """`ranks` 0 is one process without a supervisor; each process has `devices` CPU devices."""
        self.folder, self.ranks = folder, ranks
        self._environment = {
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": str(int(float64)),
            "XLA_FLAGS": f"--xla_disable_hlo_passes=algsimp --xla_force_host_platform_device_count={devices}",
        }
        self._command = [sys.executable, "main.py", "--config=configs/demo.py", f"--workdir={folder}"]
        fields = {
            "data.train": data,
            "data.num_threads": 1,
            "batch_size": 16,
            "num_steps": steps,
            "log_every_steps": 1,
            "checkpoint_every_steps": interval,
            "keep_every_steps": interval,  # all, to be compared
            "stall_seconds": stall,
            "model.dtype": "float64" if float64 else "float32",
        }
        self._command += [f"--config.{name}={value}" for name, value in fields.items()]
        if ranks:
            supervise = [
                "-m",
                "univip_jax.run.supervise",
                f"--num_processes={ranks}",
                "--backoff=0.1",
                "--max_restarts=10",
            ]
            self._command = [sys.executable, *supervise, "--", *self._command]
        self._log = folder.with_name(f"{folder.name}.txt")
        self.process: subprocess.Popen | None = None
        self.started = 0.0

    def start(self, file_size_limit: int | None = None) -> subprocess.Popen:
        """Starts it; output is appended to a file beside the folder. The limit, in KiB, of any file is a full disk."""
        command = self._command
        if file_size_limit is not None:
            command = ["sh", "-c", f'ulimit -f {2 * file_size_limit}; exec "$@"', "sh", *command]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **self._environment}, stdout=log, stderr=subprocess.STDOUT
            )
        self.started = time.monotonic()
        return self.process

    def finish(self, **options: int) -> int:
        """Starts it and waits for its end; the exit code."""
        return self.start(**options).wait(_TIMEOUT)

    def kill(self) -> None:
        """SIGKILL, and what has ended is over."""
        self.process.kill()
        self.process.wait()

    def rank_ids(self) -> list[int]:
        """The process ids of the ranks that run now."""
        found = []
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = place.read_bytes().split(b"\0")
            except OSError:
                continue  # it has just ended
            if f"--workdir={self.folder}".encode() in words and words[1:2] == [b"main.py"]:
                found.append(int(place.parent.name))
        return sorted(found)

    @staticmethod
    def is_watched(rank: int) -> bool:
        """Whether the process `rank` has its watchdog: Python's own start, before it, is nobody's to watch."""
        try:
            return bool(Path(f"/proc/{rank}/task/{rank}/children").read_text())
        except OSError:
            return False  # it has just ended

    def output(self) -> str:
        """All it has printed so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def saved(self) -> list[int]:
        """Steps whose checkpoint is committed."""
        folder = self.folder / "checkpoints"
        return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())

    def saving(self) -> bool:
        """Whether a save is under way."""
        return any((self.folder / "checkpoints").glob("*.orbax-checkpoint-tmp*"))

    def digests(self, step: int) -> dict[str, str]:
        """Of each leaf of the state after `step` steps, as the checkpoint tells."""
        return json.loads((self.folder / "checkpoints" / str(step) / "meta" / "metadata").read_text())["digests"]

    def losses(self) -> dict[int, tuple]:
        """Loss, its terms and the gradient's norm, by step."""
        names = ("train/loss", "train/loss_scene", "train/loss_instance", "train/grad_norm")
        lines = read_metrics(self.folder)
        return {line["step"]: tuple(line.get(name) for name in names) for line in lines if "train/loss" in line}

    def newest_step(self) -> int:
        """The step that was reported last; 0 before any."""
        return max(self.losses(), default=0)

    def wait_for(self, condition: Callable[[], bool], what: str, *, every: float = 0.05) -> bool:
        """True when the condition holds, False when the process has ended before; fails after a long time."""
        end = time.monotonic() + _TIMEOUT
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > end:
                raise TimeoutError(f"no {what} in {_TIMEOUT} s:\n{self.output()[-2000:]}")
            time.sleep(every)
        return True

    def begin_anew(self) -> None:
        """Empties the folder, but for the compiled programs."""
        for path in self.folder.iterdir():
            if path.name != COMPILED:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_TIMEOUT)
