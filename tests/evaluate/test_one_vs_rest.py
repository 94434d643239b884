"""Average precision by hand and by the benchmark's definition; SVMs by scikit-learn on folds made by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC

from univip_jax.evaluate.one_vs_rest import cross_validate, draw, fit_few, normalized, score_class
from univip_jax.evaluate.scores import average_precision

pytestmark = pytest.mark.filterwarnings("error")  # a class without positives, a solver that does not end


def problem(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [count, 5] and labels 1, 0, -1 that the first two tell, not without mistakes."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 5))
    score = features[:, 0] - features[:, 1] + rng.normal(size=count)
    return features, np.select([score > 1, score > 0.7], [1, 0], -1).astype(np.int8)


def svm(cost: float) -> LinearSVC:
    return LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, tol=1e-4, random_state=0)


def by_hand(is_present: np.ndarray, scores: np.ndarray) -> float:
    """Each photo with the class adds 1 / P times the best precision at its rank or below."""
    hits = is_present[np.argsort(-scores)]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return sum(precision[rank:].max() for rank in np.flatnonzero(hits)) / hits.sum()


def test_average_precision_by_hand():
    """Ranks 1, 3 and 4 of 5: precision 1, then 2/3 and 3/4, of which the latter counts for both."""
    is_present, scores = np.array([1, 0, 1, 1, 0]), np.array([0.9, 0.8, 0.5, 0.2, -3.0])
    assert average_precision(is_present, scores) == pytest.approx((1 + 3 / 4 + 3 / 4) / 3)
    assert average_precision_score(is_present, scores) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert average_precision(is_present, -scores) == pytest.approx((2 / 3 + 2 / 3 + 3 / 5) / 3)


def test_average_precision_equals_the_definition():
    rng = np.random.default_rng(0)
    for _ in range(5):
        is_present, scores = rng.random(200) < 0.1, rng.normal(size=200)
        assert average_precision(is_present, scores) == pytest.approx(by_hand(is_present, scores), abs=1e-12)
    assert np.isnan(average_precision(np.zeros(3), np.arange(3.0)))


def test_normalized_rows_have_length_1_up_to_epsilon():
    found = normalized(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(found, [[3 / 5.00001, 4 / 5.00001], [0, 0]], rtol=1e-12)


@pytest.mark.parametrize("cost", [0.01, 1.0])
def test_cross_validate_equals_three_folds_by_hand(cost):
    """Thirds, in order, of the photos with the class and of the others; difficult counts as without."""
    features, labels = problem(120, 0)
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == 1)[:24], np.flatnonzero(labels != 1)[:60]]))
    features, labels = features[chosen], labels[chosen]
    y, fold = np.where(labels == 1, 1, -1), np.zeros(84, int)
    for kind in (1, -1):
        for number, third in enumerate(np.split(np.flatnonzero(y == kind), 3)):
            fold[third] = number
    scores = []
    for number in range(3):
        fitted = svm(cost).fit(features[fold != number], y[fold != number])
        scores.append(average_precision_score(y[fold == number], fitted.decision_function(features[fold == number])))
    assert cross_validate(features, labels, cost, seed=0) == pytest.approx(np.mean(scores), abs=1e-9)


def test_score_class_with_difficult_photos():
    (features, labels), (test, test_labels) = problem(120, 0), problem(80, 1)
    assert (labels == 0).any() and (test_labels == 0).any()
    fitted = svm(1.0).fit(features, np.where(labels == 1, 1, -1))
    (counts,) = np.nonzero(test_labels)
    expected = by_hand(test_labels[counts] == 1, fitted.decision_function(test)[counts])
    assert score_class(features, labels, test, test_labels, 1.0, seed=0) == pytest.approx(expected, abs=1e-9)


def test_draw_counts_and_depends_on_its_key():
    _, labels = problem(200, 0)
    found = draw(labels, 7, 4, 0, 7, 2, 1)
    assert len(set(found)) == 28
    assert (labels[found] == 1).sum() == 7 and (labels[found] == -1).sum() == 21
    np.testing.assert_array_equal(found, draw(labels, 7, 4, 0, 7, 2, 1))
    others = [draw(labels, 7, 4, *key) for key in ((1, 7, 2, 1), (0, 7, 3, 1), (0, 7, 2, 0))]
    assert len({tuple(sorted(one)) for one in (found, *others)}) == 4


def test_fit_few_judges_on_the_other_photos():
    (features, labels), (test, test_labels) = problem(100, 0), problem(30, 1)
    drawn = draw(labels, 5, 3, 0)
    few = fit_few(features, labels, test, test_labels, drawn, (0.1, 10.0), seed=0)
    rest = np.array([index for index in range(100) if index not in drawn and labels[index]])
    for row, cost in enumerate((0.1, 10.0)):
        fitted = svm(cost).fit(features[drawn], labels[drawn])
        expected = average_precision_score(labels[rest], fitted.decision_function(features[rest]))
        assert few.held_out[row] == pytest.approx(expected, abs=1e-9)
        counts = test_labels != 0
        expected = by_hand(test_labels[counts] == 1, fitted.decision_function(test)[counts])
        assert few.test[row] == pytest.approx(expected, abs=1e-9)


def test_fit_few_without_photos_to_judge_on():
    features, labels = problem(100, 0)
    drawn = draw(labels, (labels == 1).sum(), 2, 0)
    assert np.isnan(fit_few(features, labels, features, labels, drawn, (1.0,), seed=0).held_out).all()
