"""The probe's accuracy, schedule and step by hand."""

import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import linear
from univip_jax.errors import UserError
from univip_jax.evaluate import linear as probes
from univip_jax.evaluate.features import Encoder, Features
from univip_jax.evaluate.linear import accuracy, fit_logistic, make_probe_step, make_schedule


def test_accuracy_by_hand():
    """Labels rank first, second, third and last among four classes."""
    logits = np.array([[9.0, 1, 2, 3], [5, 4, 1, 0], [3, 2, 1, 0], [-1, -2, -3, -4]])
    labels = np.array([0, 1, 2, 3])
    assert [accuracy(logits, labels, k) for k in (1, 2, 3, 4)] == [25.0, 50.0, 75.0, 100.0]


def test_accuracy_of_more_guesses_than_classes_is_full():
    assert accuracy(np.zeros((3, 2)), np.array([0, 1, 1]), 5) == 100.0


def test_schedule_of_moco():
    """30 at a batch of 256, a tenth from epoch 60 on, a hundredth from epoch 80 on."""
    schedule = make_schedule(linear.get_config(), steps_per_epoch=5004)
    epochs = [0, 30, 59.99, 60.01, 79.99, 80.01, 99.9]
    found = [float(schedule(round(epoch * 5004))) for epoch in epochs]
    np.testing.assert_allclose(found, [30, 30, 30, 3, 3, 0.3, 0.3], rtol=1e-5)


@pytest.mark.parametrize(("batch_size", "peak"), [(64, 2.5), (512, 20.0)])
def test_schedule_grows_with_the_batch(batch_size, peak):
    config = ConfigDict({"lr": 10.0, "batch_size": batch_size, "milestones": (1,)})
    schedule = make_schedule(config, steps_per_epoch=7)
    np.testing.assert_allclose([schedule(0), schedule(6), schedule(8)], [peak, peak, peak / 10], rtol=1e-6)


class FlatPixels(Encoder):
    """Stands for an encoder: its features are the pixels times a variable."""

    def __init__(self):
        pass

    def apply(self, variables, images):
        return variables * images.reshape(len(images), -1).astype(np.float32)


def test_a_step_is_softmax_regression_on_the_features():
    """Loss and gradient of the cross-entropy in NumPy; the backbone's variables are an argument, never an output."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 4, (5, 1, 2, 3), np.uint8), np.array([0, 1, 2, 2, 1])
    kernel, bias = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    optimizer = optax.sgd(0.5)
    weights = jax.tree.map(jax.numpy.asarray, {"kernel": kernel, "bias": bias})
    found, _, loss = make_probe_step(FlatPixels(), optimizer)(
        weights, optimizer.init(weights), np.float32(0.5), images, labels
    )
    x = 0.5 * images.reshape(5, 6).astype(np.float64)
    exponentials = np.exp(x @ kernel + bias)
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(loss, -np.log(probabilities[np.arange(5), labels]).mean(), rtol=1e-5)
    error = (probabilities - np.eye(3)[labels]) / 5
    np.testing.assert_allclose(found["kernel"], kernel - 0.5 * x.T @ error, atol=1e-5)
    np.testing.assert_allclose(found["bias"], bias - 0.5 * error.sum(0), atol=1e-5)


def three_classes(count: int, noise: float) -> Features:
    """Features [count, 4] of which the second alone tells the class; the others are larger, and noise."""
    rng = np.random.default_rng(count)
    labels = rng.integers(0, 3, count)
    features = rng.normal(size=(count, 4)) * [100.0, noise, 10.0, 1.0]
    features[:, 1] += labels
    return Features(features.astype(np.float32), labels)


def test_logistic_finds_the_feature_that_tells_the_class_whatever_its_scale():
    train, test = three_classes(400, noise=0.05), three_classes(200, noise=0.05)
    config = linear.get_config()
    config.inverse_l2 = 100.0
    logits = fit_logistic(train, test.features, config)
    assert logits.shape == (200, 3)
    assert accuracy(logits, test.labels, 1) > 97
    scales = np.array([1e-3, 1.0, 7.0, 1e3], np.float32)
    rescaled = fit_logistic(Features(train.features * scales, train.labels), test.features * scales, config)
    np.testing.assert_array_equal(rescaled.argmax(1), logits.argmax(1))


def test_logistic_with_two_classes_ranks_both():
    train = three_classes(300, noise=0.05)
    train = Features(train.features[train.labels < 2], train.labels[train.labels < 2])
    logits = fit_logistic(train, train.features, linear.get_config())
    assert logits.shape == (len(train.labels), 2)
    assert accuracy(logits, train.labels, 1) > 97


def test_a_logistic_regression_that_does_not_end_says_so(monkeypatch):
    monkeypatch.setattr(probes, "_MAX_ITER", 1)
    with pytest.raises(UserError, match=r"did not end in 1 iterations; lower config\.inverse_l2=1\.0"):
        fit_logistic(three_classes(300, noise=1.0), np.zeros((1, 4)), linear.get_config())
