"""NumPy in float64, loops rather than cleverness: what several test files compare with."""

import numpy as np
from scipy.special import logsumexp


def unit(x: np.ndarray) -> np.ndarray:
    """x / ||x|| over the last axis."""
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Cosine of two vectors."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def sinkhorn(cost: np.ndarray, supply: np.ndarray, demand: np.ndarray, epsilon: float, num_iters: int) -> np.ndarray:
    """One plan [K, K] by the textbook loop in the log domain: potentials of the columns, then of the rows."""
    cost, supply, demand = (np.asarray(x, np.float64) for x in (cost, supply, demand))
    f = np.zeros(len(supply))
    for _ in range(num_iters):
        g = epsilon * (np.log(demand) - logsumexp((f[:, None] - cost) / epsilon, axis=0))
        f = epsilon * (np.log(supply) - logsumexp((g[None, :] - cost) / epsilon, axis=1))
    return np.exp((f[:, None] + g[None, :] - cost) / epsilon)


def marginals(
    instances: np.ndarray, scenes: np.ndarray, plan_mass: float, floor: float, normalized: bool
) -> np.ndarray:
    """Weights [K] of one image's instances [K, D] from its scenes [2, D]: Eq. 9-10, floored, of sum `plan_mass`."""
    instances, scenes = np.asarray(instances, np.float64), np.asarray(scenes, np.float64)
    if normalized:
        instances, scenes = unit(instances), unit(scenes)
    mean = (scenes[0] + scenes[1]) / 2
    weights = np.array([max(float(instance @ mean), 0.0) for instance in instances])
    weights = weights / weights.max() + floor if weights.max() > 0 else np.ones(len(weights))
    return plan_mass * weights / weights.sum()
