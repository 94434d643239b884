"""Linear SVMs on frozen features (`svm_voc07`; Goyal et al. 2019), by all and by few photos of each class.

Difficult objects are ignored as the benchmark does: a photo in which a class is difficult alone is absent in training,
and left out of few-photo draws and of the test.
# Deviation from the benchmark: it chooses C of the few-photo SVMs on the test set; here the photos not drawn decide.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int8
from joblib import Parallel, delayed
from ml_collections import ConfigDict
from tqdm import tqdm

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import Labelled, open_pair
from univip_jax.evaluate import one_vs_rest
from univip_jax.evaluate.kept import SQUASHED, kept_features
from univip_jax.evaluate.results import write_results
from univip_jax.types import Features
from univip_jax.weights.encoder import open_encoder

_CHOSEN_BY = (
    f"each class's C by its average precision over {one_vs_rest.NUM_FOLDS} folds of the training photos; "
    "C of low_shot, one for all classes and draws, by that on the training photos that were not drawn"
)


def each_class(labels: np.ndarray, num_classes: int) -> Int8[np.ndarray, "N C"]:
    """Class numbers [N], or labels of several classes as they are, as labels of `data.voc`: 1, -1, or 0: difficult."""
    if labels.ndim == 2:
        return labels
    return np.where(labels[:, None] == np.arange(num_classes), 1, -1).astype(np.int8)


def check_counts(train: Labelled, labels: np.ndarray, test: Labelled, test_labels: np.ndarray, low_shot) -> None:
    """Raises UserError where labels [N, C] are too few for the folds, the draws or the test, and names the class."""
    present, absent = (labels == 1).sum(0), (labels == -1).sum(0)
    for name, count, others, in_test in zip(train.classes, present, absent, (test_labels == 1).sum(0), strict=True):
        if min(count, len(labels) - count) < one_vs_rest.NUM_FOLDS:
            raise UserError(
                f"class {name!r} is in {count} of the {len(labels)} photos of {train.name}: "
                f"{one_vs_rest.NUM_FOLDS} folds need {one_vs_rest.NUM_FOLDS} with it and as many without"
            )
        if not in_test:
            raise UserError(f"class {name!r} is in no photo of {test.name}: its average precision has no meaning")
        for k in low_shot:
            wanted = k * (len(train.classes) - 1)
            if k < 1 or count < k or others < wanted:
                raise UserError(
                    f"low_shot={k} takes {k} photos with class {name!r} and {wanted} without: {train.name} has {count} "
                    f"and {others}; leave it out of config.low_shot"
                )
    if low_shot and present.max() <= max(low_shot):
        raise UserError(f"low_shot={max(low_shot)} leaves no photo of {train.name} to choose C by; lower it")


def _all(calls: Iterable, count: int, num_workers: int, description: str) -> list:
    """The results of joblib's delayed calls, in order, by so many processes (0: one for each core)."""
    results = Parallel(n_jobs=num_workers or -1, return_as="generator")(calls)
    return list(tqdm(results, total=count, unit="svm", desc=description))


def full(config: ConfigDict, classes: tuple[str, ...], train: tuple, test: tuple) -> dict:
    """mAP by all training photos; `train` and `test` are normalised features and labels [N, C]."""
    (features, labels), (test_features, test_labels) = train, test
    points = [(index, cost) for index in range(len(classes)) for cost in config.costs]
    validate = delayed(one_vs_rest.cross_validate)
    found = _all(
        (validate(features, labels[:, index], cost, config.seed) for index, cost in points),
        len(points),
        config.num_workers,
        f"C of each class, {one_vs_rest.NUM_FOLDS} folds",
    )
    held_out = np.reshape(found, (len(classes), len(config.costs)))
    chosen = [config.costs[best] for best in held_out.argmax(1)]
    score = delayed(one_vs_rest.score_class)
    precision = _all(
        (
            score(features, labels[:, index], test_features, test_labels[:, index], cost, config.seed)
            for index, cost in enumerate(chosen)
        ),
        len(classes),
        config.num_workers,
        "each class",
    )
    return {
        "map": 100 * float(np.mean(precision)),
        "ap": {name: 100 * value for name, value in zip(classes, precision, strict=True)},
        "grid": [
            {"class": classes[index], "C": cost, "held_out": 100 * value}
            for (index, cost), value in zip(points, found, strict=True)
        ],
        "chosen": dict(zip(classes, chosen, strict=True)),
    }


def low_shot(config: ConfigDict, k: int, train: tuple, test: tuple) -> tuple[dict, list[dict]]:
    """mAP by k photos of each class, and the points of the grid; `train` and `test` as in `full`."""
    (features, labels), (test_features, test_labels) = train, test
    num_classes, costs = labels.shape[1], tuple(config.low_shot_costs)
    points = [(number, index) for number in range(config.num_draws) for index in range(num_classes)]
    drawn = (
        one_vs_rest.draw(labels[:, index], k, num_classes, config.seed, k, number, index) for number, index in points
    )
    fit = delayed(one_vs_rest.fit_few)
    found = _all(
        (
            fit(features, labels[:, index], test_features, photos, costs, config.seed)
            for (_, index), photos in zip(points, drawn, strict=True)
        ),
        len(points),
        config.num_workers,
        f"{k} photos a class, {config.num_draws} draws",
    )
    held_out = np.nanmean([few.held_out for few in found], axis=0)
    best = int(held_out.argmax())
    precision = []
    for (_, index), few in zip(points, found, strict=True):
        counts = test_labels[:, index] != 0
        scores = few.test[best, counts]
        precision.append(one_vs_rest.average_precision(test_labels[counts, index] == 1, scores))
    draws = 100 * np.reshape(precision, (config.num_draws, num_classes)).mean(1)
    result = {"mean": float(draws.mean()), "deviation": float(draws.std()), "draws": draws.tolist(), "C": costs[best]}
    return result, [
        {"low_shot": k, "C": cost, "held_out": 100 * float(value)} for cost, value in zip(costs, held_out, strict=True)
    ]


def _evaluate(config: ConfigDict, train: Labelled, found: Features, test: Labelled, found_test: Features) -> dict:
    labels, test_labels = (each_class(one.labels, len(train.classes)) for one in (found, found_test))
    check_counts(train, labels, test, test_labels, config.low_shot)
    sides = (one_vs_rest.normalized(found.features), labels), (one_vs_rest.normalized(found_test.features), test_labels)
    results, few = full(config, train.classes, *sides), {}
    for k in config.low_shot:
        few[str(k)], points = low_shot(config, k, *sides)
        results["grid"] += points
    return {**results, "low_shot": few}


def evaluate_svm(config: ConfigDict, workdir: Path) -> None:
    """Writes `results.json`: mean average precision over the classes in percent, of all and of few training photos."""
    if not config.costs or (config.low_shot and not (config.low_shot_costs and config.num_draws > 0)):
        raise UserError("config.costs and config.low_shot_costs need a value each, and config.num_draws at least 1")
    encoder = open_encoder(config)
    size = config.image_size or encoder.image_size
    train, test = open_pair(config.data.train, config.data.test, allow_multi_label=True)
    keep = partial(kept_features, workdir, encoder, recipe=SQUASHED, image_size=size, batch_size=config.batch_size)
    train_features, test_features = keep(train), keep(test)
    if jax.process_index() == 0:
        found = _evaluate(config, train, train_features, test, test_features)
        results = {
            "protocol": "svm_voc07",
            "map": found.pop("map"),
            "pretrained": encoder.source,
            "step": encoder.step,
            "image_size": size,
            "train": train.describe(),
            "test": test.describe(),
            "classes": len(train.classes),
            **found,
            "chosen_by": _CHOSEN_BY,
            "seed": config.seed,
        }
        write_results(workdir, results)
    multihost_utils.sync_global_devices("SVMs fitted")  # the others wait: a process that ended would end the job
