"""Files that are damaged at random, and whether whoever reads them notices."""

import itertools
import random
import shutil
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


def damage_again_and_again(run: Path, data: Path, scratch: Path, count: int, rng: random.Random) -> Counter:
    """Half of `count` damages to the newest checkpoint of `run`, half to the files of the data set."""
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
