"""A training of two small arrays, for tests that kill it.

The loop, its log and its checkpoints are the real ones; only what is trained is small.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from univip_jax.common import cli
from univip_jax.common.files import at, held
from univip_jax.run.cadence import Cadence
from univip_jax.run.cluster import Place, held_by_first, join
from univip_jax.run.folder import check_config
from univip_jax.run.setup import Run
from univip_jax.run.train import train
from univip_jax.sharding import local_rows, make_mesh, replicated

BATCH = 4
CONFIG = {
    "max_bad_steps": 3, "keep_checkpoints": 2, "keep_every_steps": 0, "stall_seconds": 0.0, "allow_changes": "",
    "started_from": None, "init": "",
}  # fmt: skip


class Tiny(Run):
    """Each step adds the batch's mean to all numbers, and turns them by their sines."""

    def init_state(self) -> dict[str, Any]:
        numbers = jnp.linspace(0, 1, 3000)
        return {"params": {"a": numbers, "b": numbers[::-1]}, "step": jnp.int32(0), "bad_steps": jnp.int32(0)}

    def batches(self, start: int) -> Iterator[np.ndarray]:
        for step in range(start, self.total_steps):
            # Multiples of 1/64: their mean is exact, in whichever order devices sum.
            yield (np.random.default_rng(step).integers(0, 64, BATCH) / 64).astype(np.float32)[self.rows]

    def photo_ids(self, step: int) -> list[str]:
        return []

    def compile(self, start: int) -> Callable:
        print("compiling", flush=True)

        @partial(jax.jit, out_shardings=replicated(self.mesh))
        def step(state: dict[str, Any], batch: jax.Array) -> tuple[dict[str, Any], dict[str, jax.Array]]:
            params = jax.tree.map(lambda x: jnp.sin(x * 3 + batch.mean()), state["params"])
            loss = params["a"].mean()
            return state | {"params": params, "step": state["step"] + 1}, {"train/loss": loss, "train/grad_norm": loss}

        return step


def open_tiny(config: ConfigDict, folder: Path, steps: int, save: int) -> Tiny:
    """As `run.pretraining.open_run`."""
    check_config(folder, config)
    mesh, dataset = make_mesh(), SimpleNamespace(fingerprint="tiny", root="nowhere")
    rows = local_rows(mesh, BATCH)
    return Tiny(config, folder, dataset, mesh, rows, Cadence(1, save, 0, steps), None, BATCH, 10, steps)


def train_tiny(folder: Path, steps: int, save: int) -> bool:
    """Trains in `folder`, or resumes there."""
    return train(ConfigDict(CONFIG), folder, partial(open_tiny, steps=steps, save=save))


def main(folder: str, steps: int, save: int, log: str) -> None:
    """As `main.py` does it, in a process of its own, whose output goes to a file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)

    def work() -> None:
        with held(at(folder)):
            train_tiny(at(folder), steps, save)

    try:
        cli.call("error", work, interrupted="again", folder=at(folder))
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code or 0)


class Processes:
    """Starts `main` in processes that have its imports already."""

    def __init__(self, folder: Path):
        self._context, self._folder = multiprocessing.get_context("forkserver"), folder
        self._context.set_forkserver_preload(["tests.cloud.tiny"])
        self.log = folder / "log.txt"

    def start(self, run: object, steps: int, save: int = 2) -> multiprocessing.Process:
        self.log.unlink(missing_ok=True)
        process = self._context.Process(target=main, args=(str(run), steps, save, str(self.log)))
        process.start()
        return process

    def printed(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "As of main.py.")
    flags.DEFINE_integer("steps", None, "Of the training.")
    flags.DEFINE_bool("distributed", None, "As of main.py.")
    flags.DEFINE_string("coordinator_address", None, "As of main.py.")
    flags.DEFINE_integer("num_processes", None, "As of main.py.")
    flags.DEFINE_integer("process_id", None, "As of main.py.")

    def work() -> None:
        given, folder = flags.FLAGS, at(flags.FLAGS.workdir)
        join(Place(given.coordinator_address, given.num_processes, given.process_id))
        with held_by_first(folder):
            train_tiny(folder, given.steps, 2)

    app.run(lambda _: cli.call("error", work, interrupted="again"))
