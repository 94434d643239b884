"""Linear SVMs on frozen features (`svm_voc07`; Goyal et al. 2019), by all and by few photos of each class.

Difficult objects are ignored as the benchmark does: a photo in which a class is only difficult counts as absent in
training, and is left out of few-photo draws and of the test.
# Deviation from the benchmark: it chooses C of the few-photo SVMs on the test set; here the photos not drawn decide.
"""

import itertools
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int8
from joblib import Parallel, delayed
from ml_collections import ConfigDict
from tqdm import tqdm

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import Labelled, open_pair
from univip_jax.evaluate import one_vs_rest
from univip_jax.evaluate.features import SQUASHED, cached_features
from univip_jax.evaluate.task import Task, require_least, run, spec_of

Side = tuple[Float[np.ndarray, "N F"], Int8[np.ndarray, "N C"]]  # normalised features and labels of a set
_CHOSEN_BY = (
    f"each class's C by its average precision over {one_vs_rest.NUM_FOLDS} folds of the training photos; "
    "C of low_shot, one for all classes and draws, by average precision on the training photos that were not drawn"
)


@dataclass(frozen=True)
class SvmSpec:
    """The fields of configs/svm.py."""

    seed: int
    costs: tuple[float, ...]
    low_shot: tuple[int, ...]
    num_draws: int
    low_shot_costs: tuple[float, ...]
    num_workers: int

    def __post_init__(self):
        require_least(0, num_workers=self.num_workers)
        require_least(1, num_draws=self.num_draws)
        if not self.costs or (self.low_shot and not self.low_shot_costs):
            raise UserError("--config.costs and --config.low_shot_costs need a value each")


def each_class(labels: np.ndarray, num_classes: int) -> Int8[np.ndarray, "N C"]:
    """Class numbers [N], or labels of several classes, as labels of `voc`: 1, -1, or 0: difficult."""
    if labels.ndim == 2:
        return labels
    return np.where(labels[:, None] == np.arange(num_classes), 1, -1).astype(np.int8)


def check_counts(train: Labelled, labels: np.ndarray, test: Labelled, test_labels: np.ndarray, low_shot) -> None:
    """Raises UserError where labels [N, C] are too few for the folds, the draws or the test, and names the class."""
    present, absent = (labels == 1).sum(0), (labels == -1).sum(0)
    most = min(present.min(), (absent // max(1, len(train.classes) - 1)).min(), present.max() - 1)
    fitting = f"--config.low_shot={','.join(str(k) for k in low_shot if 1 <= k <= most) or '()'}"
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
                    f"and {others}; leave it out: {shlex.quote(fitting)}"
                )
    if low_shot and present.max() <= max(low_shot):
        raise UserError(
            f"low_shot={max(low_shot)} leaves no photo of {train.name} to choose C by; "
            f"leave it out: {shlex.quote(fitting)}"
        )


def _parallel(function: Callable, arguments: list[tuple], num_workers: int, description: str) -> list:
    """The results of the calls, in order, by so many processes (0: one for each core)."""
    results = Parallel(n_jobs=num_workers or -1, return_as="generator")(delayed(function)(*one) for one in arguments)
    return list(tqdm(results, total=len(arguments), unit="svm", desc=description))


def full(spec: SvmSpec, classes: tuple[str, ...], train: Side, test: Side) -> dict:
    """mAP by all training photos."""
    (x, y), (test_x, test_y), seed = train, test, spec.seed
    points = [(index, cost) for index in range(len(classes)) for cost in spec.costs]
    calls = [(x, y[:, index], cost, seed) for index, cost in points]
    what = f"C of each class, {one_vs_rest.NUM_FOLDS} folds"
    held_out = _parallel(one_vs_rest.cross_validate, calls, spec.num_workers, what)
    chosen = [spec.costs[best] for best in np.reshape(held_out, (len(classes), len(spec.costs))).argmax(1)]
    calls = [(x, y[:, index], test_x, test_y[:, index], cost, seed) for index, cost in enumerate(chosen)]
    precision = _parallel(one_vs_rest.score_class, calls, spec.num_workers, "each class")
    return {
        "map": 100 * float(np.mean(precision)),
        "ap": {name: 100 * value for name, value in zip(classes, precision, strict=True)},
        "grid": [
            {"class": classes[index], "C": cost, "held_out": 100 * value}
            for (index, cost), value in zip(points, held_out, strict=True)
        ],
        "chosen": dict(zip(classes, chosen, strict=True)),
    }


def low_shot(spec: SvmSpec, k: int, train: Side, test: Side) -> tuple[dict, list[dict]]:
    """mAP by k photos of each class, and the points of the grid."""
    (x, y), (test_x, test_y), costs = train, test, spec.low_shot_costs
    num_classes = y.shape[1]
    calls = []
    for number, index in itertools.product(range(spec.num_draws), range(num_classes)):
        drawn = one_vs_rest.draw(y[:, index], k, num_classes, spec.seed, k, number, index)
        calls.append((x, y[:, index], test_x, test_y[:, index], drawn, costs, spec.seed))
    what = f"{k} photos per class, {spec.num_draws} draws"
    shots = _parallel(one_vs_rest.fit_few, calls, spec.num_workers, what)
    held_out = np.nanmean([shot.held_out for shot in shots], axis=0)
    best = int(held_out.argmax())
    draws = 100 * np.reshape([shot.test[best] for shot in shots], (spec.num_draws, num_classes)).mean(1)
    result = {"mean": float(draws.mean()), "std": float(draws.std()), "draws": draws.tolist(), "C": costs[best]}
    return result, [
        {"low_shot": k, "C": cost, "held_out": 100 * float(value)} for cost, value in zip(costs, held_out, strict=True)
    ]


def judge(task: Task, spec: SvmSpec) -> dict | None:
    """Mean average precision over the classes in percent, by all and by few training photos."""
    train, test = (cached_features(task, labelled, SQUASHED) for labelled in (task.train, task.test))
    if jax.process_index():
        return None
    labels, test_labels = (each_class(one.labels, len(task.train.classes)) for one in (train, test))
    check_counts(task.train, labels, task.test, test_labels, spec.low_shot)
    sides = (one_vs_rest.normalized(train.features), labels), (one_vs_rest.normalized(test.features), test_labels)
    results = {"protocol": "svm_voc07", **full(spec, task.train.classes, *sides), "low_shot": {}}
    for k in spec.low_shot:
        results["low_shot"][str(k)], points = low_shot(spec, k, *sides)
        results["grid"] += points
    return {**results, "chosen_by": _CHOSEN_BY}


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Judges the encoder by linear SVMs and writes `results.json`."""
    sets = partial(open_pair, config.data.train, config.data.test, allow_multi_label=True)
    run(config, workdir, sets, partial(judge, spec=spec_of(SvmSpec, config)))
