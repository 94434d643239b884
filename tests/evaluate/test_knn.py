"""The weighted vote against a loop in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from univip_jax.errors import UserError
from univip_jax.evaluate.knn import knn_predict


def features(count: int, seed: int) -> np.ndarray:
    """Of different lengths, which must not matter."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, 6)) * rng.uniform(0.1, 10, (count, 1))).astype(np.float32)


def predict(train, labels, test, **options) -> np.ndarray:
    return knn_predict(*map(jnp.asarray, (train, labels, test)), **options)


def by_hand(train, labels, test, k, temperature, num_classes) -> list[int]:
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train.astype(float), test.astype(float)))
    predictions = []
    for row in test:
        similarity = train @ row
        votes = np.zeros(num_classes)
        for neighbour in np.argsort(-similarity)[:k]:
            votes[labels[neighbour]] += np.exp(similarity[neighbour] / temperature)
        predictions.append(int(votes.argmax()))
    return predictions


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (60, 0.5)])
def test_predictions_are_numpy_s(k, temperature):
    """300 test rows: more than one chunk of 256."""
    train, test = features(60, 0), features(300, 1)
    labels = np.random.default_rng(2).integers(0, 4, 60)
    found = predict(train, labels, test, k=k, temperature=temperature, num_classes=4)
    assert found.shape == (300,)
    expected = by_hand(train, labels, test, k, temperature, 4)
    assert len(set(expected)) == 4
    np.testing.assert_array_equal(found, expected)


def test_a_near_neighbour_outvotes_two_far_ones():
    """Cosines 1, 0.6, 0.6 at T = 0.07: exp(14.3) against 2 exp(8.6); at T = 10 two votes win."""
    train = np.array([[2.0, 0.0], [0.6, 0.8], [0.3, -0.4]], np.float32)
    options = {"labels": np.array([0, 1, 1]), "test": np.array([[5.0, 0.0]], np.float32), "k": 3, "num_classes": 2}
    assert predict(train, temperature=0.07, **options).tolist() == [0]
    assert predict(train, temperature=10.0, **options).tolist() == [1]


def test_a_tiny_temperature_does_not_overflow():
    """exp(1 / 0.001) is infinite; by then the nearest neighbour decides alone."""
    train, test = features(40, 3), features(50, 4)
    labels = np.random.default_rng(5).integers(0, 3, 40)
    found = predict(train, labels, test, k=10, temperature=1e-3, num_classes=3)
    np.testing.assert_array_equal(found, predict(train, labels, test, k=1, temperature=0.07, num_classes=3))


@pytest.mark.parametrize("k", [0, 5])
def test_k_that_cannot_be_had_is_refused(k):
    with pytest.raises(UserError, match=f"k={k} neighbours cannot be had from 4 training photos"):
        predict(features(4, 0), np.zeros(4, int), features(1, 1), k=k, temperature=0.07, num_classes=2)
