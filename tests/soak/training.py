"""A training that is started, hurt and started again, and what its folder shows from outside."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.processes import TOO_SLOW, start_processes
from univip_jax.run.compiled import FOLDER as COMPILED
from univip_jax.run.log import read_metrics

_TIMEOUT = 900  # s, for what should take seconds
_LOSSES = ("train/loss", "train/loss_scene", "train/loss_instance", "train/grad_norm")


class Training:
    """`main.py` on a small config in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        data: Path,
        *,
        steps: int,
        interval: int,
        processes: int = 1,
        devices: int = 1,
        supervised: bool = False,
        stall: float = 60.0,
        float64: bool = False,
    ):
        """Each of its processes has `devices` CPU devices; `interval` is the steps between two checkpoints."""
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
        command = [sys.executable, "main.py", "--config=configs/demo.py", f"--workdir={folder}"]
        command += [f"--config.{name}={value}" for name, value in fields.items()]
        supervise = [sys.executable, "-m", "univip_jax.run.supervise", "--backoff=0.1", "--max_restarts=1000", "--"]
        self._command = [*supervise, *command] if supervised else command
        self._environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": str(int(float64)),
            "XLA_FLAGS": f"--xla_disable_hlo_passes=algsimp --xla_force_host_platform_device_count={devices}",
        }
        self.folder, self._count = folder, processes
        self._log, self._shown = folder.with_name(f"{folder.name}.txt"), 0
        self._processes: list[subprocess.Popen] = []
        self.started = 0.0

    def start(self, file_size_limit: int | None = None) -> None:
        """Starts it. The limit, in KiB, is for any file: a full disk."""
        command = self._command
        if file_size_limit is not None:
            command = ["sh", "-c", f'ulimit -f {2 * file_size_limit}; exec "$@"', "sh", *command]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._shown = len(self._all_output())
        if self._count > 1:
            self._processes = start_processes(command, self._count, self._environment, self._log)
        else:
            with self._log.open("a") as log:
                run = subprocess.Popen(command, env=self._environment, stdout=log, stderr=subprocess.STDOUT)
            self._processes = [run]
        self.started = time.monotonic()

    def wait(self) -> int:
        """Waits for the end of all processes; the highest exit code, or the first signal's."""
        codes = [process.wait(_TIMEOUT) for process in self._processes]
        return min(codes) if min(codes) < 0 else max(codes)

    def finish(self) -> None:
        """Starts it and waits for its end; raises if it fails or hangs."""
        self.start()
        self.wait_for(lambda: False)

    def kill(self) -> None:
        """SIGKILL for one process, then for the others, as a scheduler does."""
        for process in random.sample(self._processes, len(self._processes)):
            process.kill()
            process.wait()

    def stop(self) -> int:
        """SIGTERM for one process, which the others learn of; the exit code."""
        random.choice(self._processes).send_signal(signal.SIGTERM)
        return self.wait()

    def has_ended(self) -> bool:
        """Whether one of its processes has."""
        return any(process.poll() is not None for process in self._processes)

    def supervised_ids(self) -> list[int]:
        """The process id of the command under the supervisor, if it runs."""
        supervisor = self._processes[0].pid
        try:
            return [int(pid) for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]
        except OSError:
            return []

    def output(self) -> str:
        """What it has printed since it was started."""
        return self._all_output()[self._shown :]

    def saved(self) -> list[int]:
        """Steps whose checkpoint is committed."""
        return sorted(int(path.name) for path in (self.folder / "checkpoints").glob("*") if path.name.isdecimal())

    def is_saving(self) -> bool:
        """Whether a save is under way."""
        return any((self.folder / "checkpoints").glob("*.orbax-checkpoint-tmp*"))

    def digests(self, step: int) -> dict[str, str]:
        """The digest of each leaf of the state after `step` steps, from the checkpoint."""
        return json.loads((self.folder / "checkpoints" / str(step) / "meta" / "metadata").read_text())["digests"]

    def losses(self) -> dict[int, tuple]:
        """Loss, its terms and the gradient's norm, by step."""
        lines = [line for line in read_metrics(self.folder) if "train/loss" in line]
        return {line["step"]: tuple(line.get(name) for name in _LOSSES) for line in lines}

    def newest_step(self) -> int:
        """The last step that was reported; 0 before any."""
        return max(self.losses(), default=0)

    def wait_for(self, condition: Callable[[], bool], *, every: float = 0.05) -> bool:
        """True when the condition holds, False if the training ended well before; raises if it failed or hangs."""
        end = time.monotonic() + _TIMEOUT
        while not condition():
            if self.has_ended():
                if not self.wait():
                    return False
                if TOO_SLOW not in self.output():
                    raise RuntimeError(self.output()[-3000:])
                self.start()
            if time.monotonic() > end:
                raise TimeoutError(f"{self.folder.name} hangs:\n{self.output()[-3000:]}")
            time.sleep(every)
        return True

    def wait_until(self, moment: float) -> bool:
        """As `wait_for`, until a time of `time.monotonic`."""
        return self.wait_for(lambda: time.monotonic() >= moment)

    def wait_for_step(self, number: int = 1) -> bool:
        """As `wait_for`, until the next step, or one further on, is reported."""
        before = self.newest_step()
        return self.wait_for(lambda: self.newest_step() >= before + number)

    def begin_anew(self) -> None:
        """Empties the folder, but for the compiled programs."""
        for path in self.folder.iterdir():
            if path.name != COMPILED:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _all_output(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""
