"""Linear SVMs, one class against the rest, and their average precision, by the benchmark of Goyal et al. (2019).

Without JAX and TensorFlow: worker processes import this file. Labels are int8 as in `data.labelled.voc`: 1 present, -1
absent, 0 only difficult objects. Features are float64, from `normalized`.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int8
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from univip_jax.evaluate.scores import average_precision

NUM_FOLDS = 3


def normalized(features: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N F"]:
    """Rows of length 1, up to the benchmark's 1e-5."""
    features = features.astype(np.float64)
    return features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-5)


def make_svm(cost: float, seed: int) -> LinearSVC:
    """The benchmark's solver: the dual of the squared hinge with L2. `seed` orders its coordinates."""
    return LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=True, tol=1e-4, max_iter=2000, random_state=seed)


def _fit(features: Float[np.ndarray, "N F"], is_present: np.ndarray, cost: float, seed: int) -> LinearSVC:
    # At large costs; the benchmark stops at 2000 steps too.
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        return make_svm(cost, seed).fit(features, np.where(is_present, 1, -1))


def cross_validate(features: Float[np.ndarray, "N F"], labels: Int8[np.ndarray, " N"], cost: float, seed: int) -> float:
    """Mean over 3 folds of scikit-learn's average precision of one class; difficult counts as absent."""
    y = np.where(labels == 1, 1, -1)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        scores = cross_val_score(make_svm(cost, seed), features, y, cv=NUM_FOLDS, scoring="average_precision")
    return float(scores.mean())


def score_class(
    train: Float[np.ndarray, "N F"],
    labels: Int8[np.ndarray, " N"],
    test: Float[np.ndarray, "M F"],
    test_labels: Int8[np.ndarray, " M"],
    cost: float,
    seed: int,
) -> float:
    """Average precision of one class on test photos. Difficult is absent in training, and left out of the test."""
    return _test_precision(_fit(train, labels == 1, cost, seed), test, test_labels)


def _test_precision(svm: LinearSVC, test: Float[np.ndarray, "M F"], test_labels: Int8[np.ndarray, " M"]) -> float:
    counts = test_labels != 0
    return average_precision(test_labels[counts] == 1, svm.decision_function(test)[counts])


def draw(labels: Int8[np.ndarray, " N"], k: int, num_classes: int, *key: int) -> Int[np.ndarray, " n"]:
    """k photos with the class and k (num_classes - 1) without it, none of them difficult; drawn by `key` alone."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    wanted = ((1, k), (-1, k * (num_classes - 1)))
    return np.concatenate([rng.permutation(np.flatnonzero(labels == kind))[:count] for kind, count in wanted])


class FewShot(NamedTuple):
    """One class by one draw, for each cost."""

    held_out: Float[np.ndarray, " costs"]  # scikit-learn's average precision on the other training photos; or NaN
    test: Float[np.ndarray, " costs"]  # average precision on the test photos, as `score_class`


def fit_few(
    train: Float[np.ndarray, "N F"],
    labels: Int8[np.ndarray, " N"],
    test: Float[np.ndarray, "M F"],
    test_labels: Int8[np.ndarray, " M"],
    drawn: Int[np.ndarray, " n"],
    costs: tuple[float, ...],
    seed: int,
) -> FewShot:
    """SVMs of the drawn photos alone."""
    rest = labels != 0
    rest[drawn] = False
    svms = [_fit(train[drawn], labels[drawn] == 1, cost, seed) for cost in costs]
    is_present = labels[rest] == 1
    if is_present.any():
        held_out = [average_precision_score(is_present, svm.decision_function(train)[rest]) for svm in svms]
    else:
        held_out = [np.nan] * len(svms)
    return FewShot(np.array(held_out), np.array([_test_precision(svm, test, test_labels) for svm in svms]))
