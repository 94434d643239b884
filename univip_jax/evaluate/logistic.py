"""scikit-learn's logistic regression on the features of centre crops (the probe of CLIP; not of the paper)."""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from univip_jax.common.errors import UserError
from univip_jax.types import Features

_MAX_ITER = 2000  # of the logistic regression


@dataclass(frozen=True)
class LogisticSpec:
    """The fields of configs/linear.py:protocol=logistic."""

    seed: int
    inverse_l2: tuple[float, ...]
    held_out: int
    retrain: bool

    def __post_init__(self):
        if not self.inverse_l2 or min(self.inverse_l2) <= 0:
            raise UserError(f"inverse_l2={self.inverse_l2} must hold one or several numbers above 0")


def fit_logistic(train: Features, test: Float[np.ndarray, "M F"], inverse_l2: float) -> Float[np.ndarray, "M C"]:
    """Log-probabilities of test features, standardised by the mean and std of the training set.

    A class that the training set lacks has minus infinity. Raises UserError where the regression does not converge.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_l2, max_iter=_MAX_ITER))
    with warnings.catch_warnings(action="error", category=ConvergenceWarning):
        try:
            probe.fit(train.features, train.labels)
        except ConvergenceWarning:
            raise UserError(
                f"the logistic regression did not converge in {_MAX_ITER} iterations; lower "
                f"--config.inverse_l2={inverse_l2}"
            ) from None
    # Of two classes, decision_function gives one logit; predict_log_proba gives two.
    logits = np.full((len(test), probe.classes_[-1] + 1), -np.inf)
    with np.errstate(divide="ignore"):  # minus infinity is the logarithm of a probability of 0
        logits[:, probe.classes_] = probe.predict_log_proba(test)
    return logits
