"""Damages files at random, and counts whether their readers notice."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from univip_jax.common.errors import UserError
from univip_jax.config import to_spec
from univip_jax.data.index import Index
from univip_jax.data.pipeline import make_batches
from univip_jax.data.records import open_dataset
from univip_jax.plan import make_plan
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.run.folder import read_config
from univip_jax.sharding import make_mesh, replicated
from univip_jax.views import ViewSpec


def damage_one(folder: Path, rng: random.Random) -> str:
    """Flips a bit of, cuts or deletes one file below `folder`, half of the times a large one; says which."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    by_size = rng.random() < 0.5
    path = rng.choices(files, [file.stat().st_size if by_size else 1 for file in files])[0]
    kind = rng.choice(["flip", "flip", "cut", "delete"])
    data = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(data[: rng.randrange(len(data))])
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    return f"{kind} {path.relative_to(folder)}"


def damage(run: Path, data: Path, scratch: Path, count: int, rng: random.Random) -> Counter:
    """Damages the newest checkpoint of `run`, then the files of the data set, `count` / 2 times each."""
    seen = Counter({"SILENTLY WRONG": 0})
    newest = max(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal())
    state = make_plan(read_config(run), open_dataset(data).num_records).init_state
    like, everywhere = jax.eval_shape(state), replicated(make_mesh(jax.local_devices()))

    def restore(folder: Path) -> list[np.ndarray]:
        with Checkpoints(folder) as checkpoints:
            return jax.tree.leaves(jax.device_get(checkpoints.restore(newest, like, everywhere)[0]))

    def read(folder: Path) -> list[np.ndarray]:
        """Every record once."""
        dataset = open_dataset(folder)
        index = Index(dataset, seed=0, batch_size=10)
        batches = make_batches(dataset, index, to_spec(ViewSpec, read_config(run), "views"), num_threads=1)
        return [np.asarray(x) for batch in itertools.islice(batches, index.steps_per_epoch) for x in batch]

    only_newest = scratch / "run"
    shutil.copytree(run / "checkpoints" / str(newest), only_newest / "checkpoints" / str(newest))
    for source, use in ((only_newest, restore), (data, read)):
        expected = use(source)
        for _ in range(count // 2):
            seen[_outcome(source, scratch / "copy", use, expected, rng)] += 1
    return seen


def _outcome(
    source: Path, copy: Path, use: Callable[[Path], list], expected: list[np.ndarray], rng: random.Random
) -> str:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    what = damage_one(copy, rng)
    try:
        found = use(copy)
    except UserError:
        return "detected"
    if len(found) == len(expected) and all(map(np.array_equal, found, expected)):
        return "without effect"
    print(f"silently wrong: {what}", flush=True)
    return "SILENTLY WRONG"


def kill_preparation(command: list[str], out: Path, expected: Path, count: int, rng: random.Random) -> Counter:
    """Kills `python -m data_prep --out=OUT ...` and its workers `count` times, then compares with the undisturbed set.

    Each kill comes up to 2 s after the command has begun to write; the same command then resumes.
    """
    seen = Counter({"SETS THAT DIFFER": 0, "SETS THAT FAIL --check": 0})
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def names() -> set[str]:
        return set(os.listdir(out)) if out.exists() else set()

    def compare() -> None:
        bytes_of = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (out, expected)]
        seen["SETS THAT DIFFER"] += bytes_of[0] != bytes_of[1]
        check = [sys.executable, "-m", "data_prep", f"--check={out}"]
        seen["SETS THAT FAIL --check"] += subprocess.run(check, **quiet).returncode != 0
        seen["sets finished"] += 1
        shutil.rmtree(out)

    while seen["kills"] < count:
        before, moment = names(), rng.uniform(0.0, 2.0)
        process = subprocess.Popen(command, start_new_session=True, **quiet)
        while process.poll() is None and names() == before:  # it imports
            time.sleep(0.01)
        time.sleep(moment)
        if process.poll() is not None:
            compare()
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        seen["kills"] += 1
        seen["kills that left half-written files"] += any(name.endswith(".tmp") for name in names())
    subprocess.run(command, check=True, **quiet)
    compare()
    return seen
