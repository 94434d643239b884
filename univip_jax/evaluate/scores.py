"""Scores: right answers and average precision. Without JAX and TensorFlow: worker processes import it."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.metrics import precision_recall_curve

Rows = TypeVar("Rows")  # NumPy's or JAX's, host or traced


def count_right(logits: Rows, labels: Rows, ks: Sequence[int] = (1, 5)) -> Rows:
    """For each k, how many labels [N] are among the k largest of their logits [N, C]; of equals the lower class counts.

    A label of no class (-1 fills up a batch) is never right, nor is a row with NaN or infinity. Minus infinity stands
    for a class that is never predicted.
    """
    xp = logits.__array_namespace__()
    classes = logits.shape[1]
    own = xp.take_along_axis(logits, xp.clip(labels, 0, classes - 1)[:, None], axis=1)
    before = (logits > own) | ((logits == own) & (xp.arange(classes) < labels[:, None]))
    usable = (labels >= 0) & (labels < classes) & (logits < np.inf).all(axis=1)
    rank = xp.where(usable, before.sum(axis=1), max(ks))
    return xp.stack([(rank < k).sum() for k in ks])


def accuracy(logits: Float[np.ndarray, "N C"], labels: Shaped[np.ndarray, " N"], k: int) -> float:
    """Percent of the rows whose label is among the k largest, as `count_right` counts them."""
    return 100 * float(count_right(logits, labels, [k])[0] / len(labels))


def average_precision(is_present: Shaped[np.ndarray, " N"], scores: Float[np.ndarray, " N"]) -> float:
    """Area under the interpolated precision-recall curve at all points: VOC's of 2010, the benchmark's.

    Neither VOC07's own 11 points nor scikit-learn's, which does not interpolate. NaN where nothing is present.
    """
    if not np.any(is_present):
        return np.nan
    precision, recall, _ = precision_recall_curve(is_present, scores)  # by falling recall
    return float(-np.sum(np.diff(recall) * np.maximum.accumulate(precision)[:-1]))
