"""scikit-learn's logistic regression on the features of centre crops (the probe of CLIP; not of the paper)."""

import warnings

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from univip_jax.common.errors import UserError
from univip_jax.types import Features

_MAX_ITER = 2000  # of the logistic regression


def fit_logistic(train: Features, test: Float[np.ndarray, "M F"], inverse_l2: float) -> Float[np.ndarray, "M C"]:
    """Log-probabilities of test features, standardised by the training set's mean and deviation.

    Raises UserError where the regression does not end.
    """
    scaled = StandardScaler().fit(train.features)
    probe = LogisticRegression(C=inverse_l2, max_iter=_MAX_ITER)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            probe.fit(scaled.transform(train.features), train.labels)
        except ConvergenceWarning:
            raise UserError(
                f"the logistic regression did not end in {_MAX_ITER} iterations; lower inverse_l2={inverse_l2}"
            ) from None
    # A class that is not in the training set is never predicted. Of two classes, decision_function gives one logit.
    found = np.full((len(test), probe.classes_[-1] + 1), -np.inf)
    found[:, probe.classes_] = probe.predict_log_proba(scaled.transform(test))
    return found


def accuracy(logits: Float[np.ndarray, "N C"], labels: np.ndarray, k: int) -> float:
    """Percent of rows whose label [N] is among the k largest."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return 100 * float(np.mean((best == labels[:, None]).any(1)))
