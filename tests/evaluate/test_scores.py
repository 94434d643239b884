"""Right answers by hand; average precision is in test_one_vs_rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from univip_jax.evaluate.scores import accuracy, count_right


@pytest.mark.parametrize("library", [np.asarray, jnp.asarray])
def test_count_right_by_rank(library):
    """Labels rank first, sixth, fifth (a tie with the class before it), and not at all: fill, NaN, infinity."""
    logits = np.zeros((6, 7), np.float32)
    logits[0, 3] = 1
    logits[1] = [6, 5, 4, 3, 2, 1, 0]
    logits[2] = [9, 8, 7, 2, 2, 0, 0]
    logits[4, 0], logits[5, 1] = np.nan, np.inf
    labels = np.array([3, 5, 4, -1, 1, 1])
    assert count_right(library(logits), library(labels)).tolist() == [1, 2]
    assert jax.jit(count_right)(logits, labels).tolist() == [1, 2]


def test_count_right_with_fewer_than_five_classes():
    logits = np.array([[3.0, 2, 1, 0]] * 4)
    assert count_right(logits, np.array([0, 3, -1, 1])).tolist() == [1, 3]


def test_count_right_with_classes_that_are_never_predicted():
    """Minus infinity ranks last; a label that has no logit is wrong."""
    logits = np.array([[-np.inf, 0.0, -1.0]] * 4)
    assert count_right(logits, np.array([0, 1, 2, 3]), (1, 2, 3)).tolist() == [1, 2, 3]


def test_accuracy_by_hand():
    """Labels rank first, second, third and last among four classes."""
    logits = np.array([[9.0, 1, 2, 3], [5, 4, 1, 0], [3, 2, 1, 0], [-1, -2, -3, -4]])
    labels = np.array([0, 1, 2, 3])
    assert [accuracy(logits, labels, k) for k in (1, 2, 3, 4)] == [25.0, 50.0, 75.0, 100.0]
    assert accuracy(np.zeros((3, 2)), np.array([0, 1, 1]), 5) == 100.0
