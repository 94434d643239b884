"""Linear probes on frozen features, by the protocols of configs/linear.py.

The points of a grid train on a part of the training set and are compared on the rest of it. The test set is read once,
by the chosen point: one head for each pooling.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import Labelled, hold_out, open_pair
from univip_jax.evaluate import sgd
from univip_jax.evaluate.features import CENTRE, cached_features
from univip_jax.evaluate.heads import (
    Heads,
    ProbeSpec,
    features_fn,
    init_heads,
    make_count,
    make_schedule,
    make_step,
    select,
)
from univip_jax.evaluate.logistic import LogisticSpec, fit_logistic
from univip_jax.evaluate.scores import accuracy
from univip_jax.evaluate.task import FIT_FINAL, FIT_GRID, Task, choose_best, run, spec_of
from univip_jax.sharding import make_mesh, replicated
from univip_jax.types import Features
from univip_jax.weights.encoder import Encoder

_BYOL_HELD_OUT = 10_009  # of ImageNet's training photos


def number_to_hold_out(held_out: int, train: Labelled) -> int:
    """`held_out`; 0 stands for BYOL's number or, if that is less, a tenth of the photos, but at least 5 a class."""
    return held_out or min(_BYOL_HELD_OUT, max(train.num_images // 10, 5 * len(train.classes)))


def train_heads(spec: ProbeSpec, encoder: Encoder, train: Labelled, image_size: int, folder: Path) -> Heads:
    """The heads of a grid after `num_epochs` epochs, as host arrays; checkpoints are in `folder`.

    Raises UserError where a batch, or a pooling, asks for more than there is, and where every head has diverged.
    """
    mesh, features_of = make_mesh(), features_fn(encoder, spec)
    schedule = make_schedule(spec, sgd.steps_per_epoch(train, spec.batch_size))
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.uint8)
    features = jax.eval_shape(features_of, encoder.variables, image, None)
    shapes = {pooling: value.shape[1:] for pooling, value in features.items()}
    init = partial(init_heads, spec, shapes, len(train.classes))
    step_fn, variables = make_step(spec, schedule, features_of), sgd.on_each_device(mesh, encoder.variables)
    heads = sgd.fit(
        jax.jit(init, out_shardings=replicated(mesh)),
        lambda heads, step, images, labels: step_fn(heads, np.int32(step), variables, images, labels),
        train,
        image_size=image_size,
        batch_size=spec.batch_size,
        num_epochs=spec.num_epochs,
        seed=spec.seed,
        folder=folder,
        label=f"{len(spec.points)} heads on {train.name}",
        save_every_epochs=spec.checkpoint_every_epochs,
    )
    return jax.device_get(heads)


def score_heads(
    spec: ProbeSpec, encoder: Encoder, heads: Heads, labelled: Labelled, image_size: int
) -> Float[np.ndarray, "P 2"]:
    """Top-1 and top-5 of each head in percent; NaN for a head that is not finite."""
    count = make_count(spec, features_fn(encoder, spec))
    scores = sgd.score(count, (heads, encoder.variables), labelled, image_size, spec.batch_size)
    finite = np.concatenate([np.isfinite(heads.weights[pooling]["kernel"]).all((1, 2)) for pooling in spec.pooling])
    return np.where(finite[:, None], scores, np.nan)


def judge_by_sgd(task: Task, spec: ProbeSpec, protocol: str) -> dict:
    """Top-1 and top-5 in percent of the best point of the grid, which SGD trains on random crops.

    `heads` has them for each pooling. The first is the protocol's own: it chooses the point, and is the result.
    """
    encoder, train, size = task.encoder, task.train, task.image_size
    points = [point._asdict() for point in spec.points[: len(spec.lr) * len(spec.weight_decay)]]
    parts = _split(train, spec, points)
    final, held_out, chosen = spec, [None], 0
    if len(points) > 1:
        heads = train_heads(spec, encoder, parts[0], size, task.workdir / FIT_GRID)
        scores = score_heads(spec, encoder, heads, parts[1], size)[: len(points), 0]
        held_out = _percent(scores)
        chosen = choose_best(points, held_out)
        final = dataclasses.replace(spec, lr=(points[chosen]["lr"],), weight_decay=(points[chosen]["weight_decay"],))
    if len(points) == 1 or spec.retrain:
        heads = train_heads(final, encoder, train, size, task.workdir / FIT_FINAL)
    else:
        heads = select(heads, spec, spec.points[chosen])
    scores = score_heads(final, encoder, heads, task.test, size)
    if not np.isfinite(scores[0]).all():
        raise UserError(f"the head of {points[chosen]} diverged; lower --config.lr")
    named = [dict(zip(("top1", "top5"), _percent(score), strict=True)) for score in scores]
    results = {"protocol": protocol, **named[0], "epochs": spec.num_epochs}
    results |= {"heads": dict(zip(spec.pooling, named, strict=True))}
    return results | _choice(points, held_out, chosen, parts, spec.retrain)


def _percent(scores: np.ndarray) -> list[float | None]:
    """For JSON; None for a head that diverged."""
    return [float(value) if np.isfinite(value) else None for value in scores]


def judge_by_logistic(task: Task, spec: LogisticSpec) -> dict | None:
    """Top-1 and top-5 in percent of the best logistic regression of the grid, on features of centre crops."""
    points = [{"inverse_l2": value} for value in spec.inverse_l2]
    parts = _split(task.train, spec, points)
    held_out, chosen = [None], 0
    features = [cached_features(task, part, CENTRE) for part in (*parts, task.test)]
    if jax.process_index():
        return None
    fitted, *held, tested = features
    if held:
        logits = [fit_logistic(fitted, held[0].features, **point) for point in points]
        held_out = [accuracy(one, held[0].labels, 1) for one in logits]
        chosen = choose_best(points, held_out)
        if spec.retrain:
            fitted = Features(*map(np.concatenate, zip(fitted, *held, strict=True)))
    logits = fit_logistic(fitted, tested.features, **points[chosen])
    scores = {"protocol": "logistic", **{f"top{k}": accuracy(logits, tested.labels, k) for k in (1, 5)}}
    return scores | _choice(points, held_out, chosen, parts, spec.retrain)


def _split(train: Labelled, spec: ProbeSpec | LogisticSpec, points: list[dict]) -> tuple[Labelled, ...]:
    """Photos to train on and, if there are several points, photos to choose one by."""
    if len(points) == 1:
        return (train,)
    return hold_out(train, number_to_hold_out(spec.held_out, train), spec.seed)


def _choice(
    points: list[dict], held_out: list[float | None], chosen: int, parts: tuple[Labelled, ...], retrain: bool
) -> dict:
    """The entries of `results.json` that say how the point was chosen."""
    grid = [point | {"held_out": value} for point, value in zip(points, held_out, strict=True)]
    then = "then trained anew on all training photos" if retrain else "trained without them"
    chosen_by = "the only point of the grid"
    if len(parts) > 1:
        chosen_by = f"highest top-1 on {parts[1].num_images} training photos that were held out, {then}"
    return {"grid": grid, "chosen": grid[chosen], "chosen_by": chosen_by}


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Judges the encoder by the protocol of the config and writes `results.json`; resumes when run again."""
    if (config.protocol == "logistic") != ("inverse_l2" in config):
        raise UserError(
            f"protocol={config.protocol!r} is the config's argument, not a field: "
            "--config=configs/linear.py:protocol=logistic"
        )
    if config.protocol == "logistic":
        judge = partial(judge_by_logistic, spec=spec_of(LogisticSpec, config))
    else:
        judge = partial(judge_by_sgd, spec=spec_of(ProbeSpec, config), protocol=config.protocol)
    run(config, workdir, partial(open_pair, config.data.train, config.data.test), judge)
