"""Entropic optimal transport between the instances of the two networks: the only home of OTT-JAX.

UniVIP leaves open how the marginals of Eq. 9-10, whose sums differ, become the equal sums that Eq. 7 needs, and
nothing in the paper keeps Sinkhorn finite. What we chose is in `TransportSpec` and in docs/reproduction.md.
"""

import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from univip_jax.common.errors import UserError
from univip_jax.types import at_least_float32

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # OTT imports jaxopt, which announces its end
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

MARGINAL_FEATURES = ("normalized", "raw")
_EPS = 1e-12  # below any weight that carries information


@dataclass(frozen=True)
class TransportSpec:
    """`config.transport`. `plan_mass` 0 stands for K, the number of instances."""

    epsilon: float
    num_iters: int
    plan_mass: float
    marginal_features: str
    marginal_floor: float

    def __post_init__(self):
        for field in ("epsilon", "num_iters", "marginal_floor"):
            if not getattr(self, field) > 0:
                raise UserError(f"transport.{field}={getattr(self, field)} must be above 0")
        if self.plan_mass < 0:
            raise UserError(f"transport.plan_mass={self.plan_mass} must be above 0, or 0 for K")
        if self.marginal_features not in MARGINAL_FEATURES:
            raise UserError(
                f"transport.marginal_features={self.marginal_features!r} is unknown; choose one of "
                f"{', '.join(MARGINAL_FEATURES)}"
            )


def normalize(x: Float[Array, "*any D"]) -> Float[Array, "*any D"]:
    """x / ||x|| over the last axis; zero stays zero, and neither value nor gradient is ever NaN.

    The largest entry is divided out first, so that squares of features of 1e30 do not overflow.
    """
    x = at_least_float32(x)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    x = x / jnp.where(largest > 0, largest, 1.0)
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(largest > 0, squares, 1.0))


def marginals(
    instances: Float[Array, "B K D"],
    scenes: Float[Array, "B 2 D"],
    *,
    plan_mass: float = 1.0,
    features: str = "normalized",
    floor: float = 1e-3,
) -> Float[Array, "B K"]:
    """How much each instance supplies or demands: `max(instance . mean of the two scenes, 0)` (UniVIP Eq. 9-10).

    # Deviation from the paper: the weights of an image are floored at `floor` of their largest and then sum to
    # `plan_mass`; where none is positive they are uniform. With `features='normalized'` instances and scenes are
    # l2-normalised first.

    Returns float32, positive, finite for finite inputs.
    """
    instances, scenes = at_least_float32(instances), at_least_float32(scenes)
    if features == "normalized":
        instances, scenes = normalize(instances), normalize(scenes)
    else:
        # Weights are relative in the end: dividing by an image's largest entry keeps products of 1e30 finite.
        instances, scenes = (x / jnp.maximum(jnp.abs(x).max((1, 2), keepdims=True), _EPS) for x in (instances, scenes))
    # Precision is explicit: these are tiny products, and TensorFloat-32 would cost three digits.
    scores = jnp.einsum("bkd,bd->bk", instances, scenes.mean(1), precision=jax.lax.Precision.HIGHEST)
    weights = jnp.maximum(scores, 0.0)
    weights = weights / jnp.maximum(weights.max(-1, keepdims=True), _EPS) + floor
    return plan_mass * weights / weights.sum(-1, keepdims=True)


def transport_plan(
    cost: Float[Array, "B K K"],
    supply: Float[Array, "B K"],
    demand: Float[Array, "B K"],
    *,
    epsilon: float = 0.1,
    num_iters: int = 50,
) -> Float[Array, "B K K"]:
    """Sinkhorn's plan for each image (UniVIP Eq. 7), in the log domain, float32, without gradient.

    Rows sum to `supply` and columns to `demand`, which must have equal sums. The number of iterations is fixed: a test
    of convergence over the batch would make the devices wait for each other at each iteration.
    """
    solver = Sinkhorn(
        threshold=0.0,
        inner_iterations=num_iters,
        min_iterations=num_iters,
        max_iterations=num_iters,
        implicit_diff=None,
    )

    def solve(cost, supply, demand):
        return solver(LinearProblem(Geometry(cost_matrix=cost, epsilon=epsilon), supply, demand)).matrix

    inputs = jax.lax.stop_gradient([at_least_float32(x) for x in (cost, supply, demand)])
    return jax.lax.stop_gradient(jax.vmap(solve)(*inputs))
