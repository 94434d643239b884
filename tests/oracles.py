"""NumPy in float64, loops rather than cleverness: what several test files compare with."""

from typing import Any

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


def marginals(instances: np.ndarray, scenes: np.ndarray, total: float | None, floor: float) -> np.ndarray:
    """Weights [K] of one image's instances [K, D] from its scenes [2, D]: Eq. 9-10 of unit vectors.

    With a `total` they are raised by `floor` and scaled to it; without, by 1e-8 (OTA's), for the logarithm.
    """
    instances, scenes = unit(np.asarray(instances, np.float64)), unit(np.asarray(scenes, np.float64))
    weights = np.array([max(float(instance @ (scenes[0] + scenes[1]) / 2), 0.0) for instance in instances])
    if total is None:
        return weights + 1e-8
    return total * (weights + floor) / (weights + floor).sum()


def instance_plan(o: np.ndarray, t: np.ndarray, os: np.ndarray, ts: np.ndarray, spec: Any) -> np.ndarray:
    """The plan [K, K] of one image's instances o, t [K, D] and scenes os, ts [2, D], by the reading of `spec`."""
    total = {0.0: float(len(o)), -1.0: None}.get(spec.plan_mass, spec.plan_mass)
    supply = marginals(o, ts, total, spec.marginal_floor)
    demand = marginals(t, os, supply.sum(), spec.marginal_floor)
    if spec.marginals == "uniform":
        supply, demand = (np.full(len(o), supply.sum() / len(o)) for _ in range(2))
    if spec.plan == "diagonal":
        return np.diag(supply)
    return sinkhorn(1 - unit(o) @ unit(t).T, supply, demand, spec.epsilon, spec.num_iters)
