"""Linear probes on frozen features, by the protocols of configs/linear.py.

Where there is a grid, its points train on a part of the training set and are compared on the rest of it; the test set
is read once, by the one head that is reported.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole
from univip_jax.config import flatten
from univip_jax.data.labelled.sets import Labelled, hold_out, open_pair
from univip_jax.evaluate.heads import ProbeSpec, select
from univip_jax.evaluate.kept import CENTRE, kept_features
from univip_jax.evaluate.logistic import accuracy, fit_logistic
from univip_jax.evaluate.probe import score, train_heads
from univip_jax.evaluate.results import RESULTS, write_results
from univip_jax.types import Features
from univip_jax.weights.encoder import Encoder, open_encoder

SETTINGS = "settings.json"
_BYOL_HELD_OUT = 10_009  # of ImageNet's training photos
# Not of the result: places, which fingerprints stand for, and how often to save.
_FREE = ("pretrained", "data.train", "data.test", "checkpoint_every_epochs")


class Outcome(NamedTuple):
    """Top-1 and top-5 on the test set, the grid's points with their top-1 on held-out photos (None: not measured, or
    the head diverged), the position of the chosen one and how it was chosen."""

    top1: float
    top5: float
    points: list[dict]
    held_out: list[float | None]
    chosen: int
    chosen_by: str


def number_to_hold_out(config: ConfigDict, train: Labelled) -> int:
    """`held_out`; 0 stands for BYOL's number or, if that is less, a tenth of the photos, but at least 5 a class."""
    return config.held_out or min(_BYOL_HELD_OUT, max(train.num_images // 10, 5 * len(train.classes)))


def claim(workdir: Path, settings: dict) -> None:
    """Makes the folder that of an evaluation with these settings.

    Raises UserError that names the first setting which differs from those of the evaluation that the folder holds.
    """
    path = workdir / SETTINGS
    if path.exists():
        before, now = json.loads(path.read_text()), json.loads(json.dumps(settings))
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise UserError(
                    f"{workdir} holds an evaluation of other settings: {name} was {before.get(name)!r} and is now "
                    f"{now.get(name)!r}; choose another --workdir, or give the old value to go on with that one"
                )
    elif jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def choose(points: list[dict], held_out: list[float | None], part: Labelled, retrain: bool) -> tuple[int, str]:
    """The position of the best of the points, the first of equals, and how it was chosen.

    Raises UserError where no point has a score.
    """
    if all(value is None for value in held_out):
        raise UserError(f"every head of the grid {points} has diverged; lower lr")
    chosen = int(np.argmax([-1 if value is None else value for value in held_out]))
    then = "then trained anew on all training photos" if retrain else "trained without them"
    return chosen, f"highest top-1 on {part.num_images} training photos that were held out, {then}"


def probe_by_sgd(
    config: ConfigDict, encoder: Encoder, train: Labelled, test: Labelled, size: int, workdir: Path
) -> Outcome:
    """The `Outcome` of heads that SGD trains on random crops."""
    spec = ProbeSpec(**{field.name: config[field.name] for field in dataclasses.fields(ProbeSpec)})
    points = [point._asdict() for point in spec.points]
    final, held_out, chosen, chosen_by = spec, [None], 0, "the only point of the grid"
    if len(points) > 1:
        rest, part = hold_out(train, number_to_hold_out(config, train), config.seed)
        heads = train_heads(spec, encoder, rest, size, workdir / "grid")
        scores = score(spec, encoder, heads, part, size)[:, 0]
        held_out = [float(value) if np.isfinite(value) else None for value in scores]
        chosen, chosen_by = choose(points, held_out, part, config.retrain)
        final = dataclasses.replace(spec, **{name: (value,) for name, value in points[chosen].items()})
    if len(points) == 1 or config.retrain:
        heads = train_heads(final, encoder, train, size, workdir / "final")
    else:
        heads = select(heads, spec, spec.points[chosen])
    top1, top5 = score(final, encoder, heads, test, size)[0].tolist()
    if not np.isfinite(top1):
        raise UserError(f"the head of {points[chosen]} has diverged; lower lr")
    return Outcome(top1, top5, points, held_out, chosen, chosen_by)


def probe_by_logistic(
    config: ConfigDict, encoder: Encoder, train: Labelled, test: Labelled, size: int, workdir: Path
) -> Outcome | None:
    """The `Outcome` of logistic regressions, which process 0 fits; None in the others."""
    points = [{"inverse_l2": value} for value in config.inverse_l2]
    held_out, chosen, chosen_by = [None], 0, "the only point of the grid"
    number = number_to_hold_out(config, train)
    parts = (train,) if len(points) == 1 else hold_out(train, number, config.seed)
    # Nothing in these features is random, so they are computed once and kept.
    keep = partial(kept_features, workdir, encoder, recipe=CENTRE, image_size=size, batch_size=config.batch_size)
    kept = [keep(part) for part in (*parts, test)]
    if jax.process_index():
        return None
    fitted, tested = kept[0], kept[-1]
    if len(points) > 1:
        held = kept[1]
        held_out = [accuracy(fit_logistic(fitted, held.features, value), held.labels, 1) for value in config.inverse_l2]
        chosen, chosen_by = choose(points, held_out, parts[1], config.retrain)
        if config.retrain:
            fitted = Features(*map(np.concatenate, zip(fitted, held, strict=True)))
    logits = fit_logistic(fitted, tested.features, config.inverse_l2[chosen])
    top1, top5 = (accuracy(logits, tested.labels, k) for k in (1, 5))
    return Outcome(top1, top5, points, held_out, chosen, chosen_by)


def evaluate_linear(config: ConfigDict, workdir: Path) -> None:
    """Trains the probe on `data.train`; writes `results.json` with top-1 and top-5 on `data.test`.

    Run again, it goes on from what is done. Raises UserError for what a user can put right.
    """
    if (config.protocol == "logistic") != ("inverse_l2" in config):
        raise UserError(
            f"protocol={config.protocol!r} is the config's argument, not a field: "
            "--config=configs/linear.py:protocol=logistic"
        )
    encoder = open_encoder(config)
    size = config.image_size or encoder.image_size
    train, test = open_pair(config.data.train, config.data.test)
    settings = {name: value for name, value in flatten(config).items() if name not in _FREE}
    settings |= {"step": encoder.step, "weights": encoder.sha256(), "image_size": size}
    settings |= {"train": train.fingerprint, "test": test.fingerprint}
    claim(workdir, settings)
    if (workdir / RESULTS).exists():
        print(f"{workdir / RESULTS} is there already: delete it to read the test set once more")
        return
    probe = probe_by_logistic if config.protocol == "logistic" else probe_by_sgd
    outcome = probe(config, encoder, train, test, size, workdir)
    if jax.process_index() == 0:
        write_results(workdir, _results(config, encoder, outcome, settings, train, test))
    multihost_utils.sync_global_devices("linear probe done")  # the others wait: one that ended would end the job


def _results(
    config: ConfigDict, encoder: Encoder, outcome: Outcome, settings: dict, train: Labelled, test: Labelled
) -> dict:
    grid = [point | {"held_out": value} for point, value in zip(outcome.points, outcome.held_out, strict=True)]
    return {
        "protocol": config.protocol,
        "top1": outcome.top1,
        "top5": outcome.top5,
        "pretrained": encoder.source,
        "step": encoder.step,
        "image_size": settings["image_size"],
        **({} if config.protocol == "logistic" else {"epochs": config.num_epochs}),
        "seed": config.seed,
        "train": train.describe(),
        "test": test.describe(),
        "classes": len(train.classes),
        "grid": grid,
        "chosen": grid[outcome.chosen],
        "chosen_by": outcome.chosen_by,
        "settings": settings,
    }
