"""The skeleton of all evaluations: open an encoder and two labelled sets, claim the workdir, judge, write the results.

An evaluation is a spec (a frozen dataclass of the config's fields) and a function that judges a `Task` by it.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole
from univip_jax.config import flatten
from univip_jax.data.labelled.sets import Labelled
from univip_jax.evaluate.results import RESULTS, read_results, write_results
from univip_jax.sharding import of_first_process
from univip_jax.weights.encoder import Encoder, open_encoder

Spec = TypeVar("Spec")
SETTINGS = "settings.json"
# Fields that do not enter the results. Fingerprints and the weights' digest stand for the places.
_FREE = ("pretrained", "data.train", "data.test", "checkpoint_every_epochs", "num_workers")
FIT_GRID, FIT_FINAL = "grid", "final"  # folders of checkpoints: of the grid's points, and of the reported one
_BINDING = (RESULTS, FIT_GRID, FIT_FINAL)


class Task(NamedTuple):
    """What an evaluation judges, and where it keeps its work."""

    encoder: Encoder
    train: Labelled
    test: Labelled
    image_size: int  # px
    batch_size: int
    workdir: Path


def run(
    config: ConfigDict,
    workdir: Path,
    open_sets: Callable[[], tuple[Labelled, Labelled]],
    judge: Callable[[Task], dict | None],
) -> None:
    """Writes `results.json` into `workdir`, unless it is there already. All processes call it.

    Args:
      open_sets: the training and the test set.
      judge: `protocol`, the scores, and how they were chosen (`grid`, `chosen`, `chosen_by`); in the first process.

    Raises:
      UserError: the encoder or a set cannot be opened, or `workdir` belongs to an evaluation of other settings.
    """
    require_least(0, seed=config.seed, step=config.step, image_size=config.image_size)
    require_least(1, batch_size=config.batch_size)
    encoder = open_encoder(config)
    train, test = open_sets()
    task = Task(encoder, train, test, config.image_size or encoder.image_size, config.batch_size, workdir)
    settings = {name: value for name, value in flatten(config).items() if name not in _FREE}
    settings |= {"step": encoder.step, "weights": encoder.sha256(), "image_size": task.image_size}
    settings |= {"train": train.fingerprint, "test": test.fingerprint}
    claim(workdir, settings)
    (finished,) = of_first_process([read_results(workdir) is not None])
    if finished:
        print(f"{workdir / RESULTS} is there already: delete it to read the test set again", flush=True)
        return
    judged = judge(task)
    if jax.process_index() == 0:
        write_results(
            workdir,
            judged
            | {"pretrained": encoder.source, "step": encoder.step, "image_size": task.image_size, "seed": config.seed}
            | ({"started_from": encoder.started_from} if encoder.started_from else {})
            | ({"drawn_from": train.drawn_from} if train.drawn_from else {})
            | {"train": train.describe(), "test": test.describe(), "classes": len(train.classes)}
            | {"settings": settings},
        )
    multihost_utils.sync_global_devices("evaluated")  # the others wait: a process that ended would end the job


def claim(workdir: Path, settings: dict) -> None:
    """Makes the folder belong to an evaluation with these settings, and writes them to `settings.json`.

    Checkpoints and results bind a folder. Features do not: each file is named by what it is made from.

    Raises UserError that names the first setting that differs from those of the evaluation in the folder.
    """
    path, now = workdir / SETTINGS, json.loads(json.dumps(settings))
    if not any((workdir / name).exists() for name in _BINDING):
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")
        return
    try:
        before = dict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(
            f"{workdir} holds an evaluation of an older version: no {SETTINGS}; choose another --workdir"
        ) from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); choose another --workdir") from error
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{workdir} holds an evaluation of other settings: {name} was {before.get(name)!r} and is now "
                f"{now.get(name)!r}; choose another --workdir, or give the old value"
            )


def spec_of(kind: type[Spec], config: ConfigDict) -> Spec:
    """`kind` with the values of the config's fields of the same names."""
    return kind(**{field.name: config[field.name] for field in dataclasses.fields(kind)})


def require_least(least: float, **fields: float | Sequence[float]) -> None:
    """Raises UserError that names the first field with a number below `least`."""
    for name, value in fields.items():
        if np.size(value) and np.min(value) < least:
            raise UserError(f"{name}={list(value) if np.ndim(value) else value} must be at least {least}")


def choose_best(points: Sequence[dict], scores: Sequence[float | None]) -> int:
    """The position of the highest score, the first of equals; None: the point diverged.

    Raises UserError where no point has a score.
    """
    if all(score is None for score in scores):
        raise UserError(f"every point of the grid diverged: {list(points)}; lower --config.lr")
    return int(np.argmax([-np.inf if score is None else score for score in scores]))
