"""Entropic optimal transport between the instances of the two networks: the only home of OTT-JAX.

UniVIP leaves open how the marginals of Eq. 9-10, whose sums differ, become the equal sums that Eq. 7 needs, and
nothing in the paper keeps Sinkhorn finite. The readings are in `TransportSpec`, the choice in docs/reproduction.md.
"""

import math
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

PLANS = ("sinkhorn", "diagonal")
MARGINALS = ("affinity", "uniform")
OWN_MASS = -1.0  # a `plan_mass`: the sum of the supplies, as OTA's code has it
_TINY = 1e-8  # OTA's: keeps logarithms finite
_LEAST_ITERATIONS = 4.0  # times 1 / epsilon: with fewer, columns miss their demand by up to a tenth


@dataclass(frozen=True)
class TransportSpec:
    """`config.transport`: the reading of Eq. 7-11. See configs/common.py for the meaning of each field."""

    epsilon: float
    num_iters: int
    plan_mass: float
    plan: str
    marginals: str
    marginal_floor: float
    stop_gradient: bool

    def __post_init__(self):
        for field in ("epsilon", "num_iters", "marginal_floor"):
            if not getattr(self, field) > 0:
                raise UserError(f"transport.{field}={getattr(self, field)} must be above 0")
        if (least := least_iterations(self.epsilon)) > self.num_iters:
            raise UserError(
                f"transport.num_iters={self.num_iters} is too few for transport.epsilon={self.epsilon}: the plan would "
                f"miss its marginals; give --config.transport.num_iters={least} or more"
            )
        if not (self.plan_mass >= 0 or self.plan_mass == OWN_MASS):
            raise UserError(
                f"transport.plan_mass={self.plan_mass} must be above 0, 0 for K, or {OWN_MASS:g} for the sum of the "
                "supplies"
            )
        for field, allowed in (("plan", PLANS), ("marginals", MARGINALS)):
            if getattr(self, field) not in allowed:
                raise UserError(
                    f"transport.{field}={getattr(self, field)!r} is unknown; choose one of {', '.join(allowed)}"
                )


def least_iterations(epsilon: float) -> int:
    """The iterations with which a plan meets its marginals."""
    return math.ceil(_LEAST_ITERATIONS / epsilon)


def normalize(x: Float[Array, "*any D"]) -> Float[Array, "*any D"]:
    """x / ||x|| over the last axis; zero stays zero, and neither value nor gradient is ever NaN.

    The largest entry is divided out first, so that squares of features of 1e30 do not overflow.
    """
    x = at_least_float32(x)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    x = x / jnp.where(largest > 0, largest, 1.0)
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(largest > 0, squares, 1.0))


def affinities(instances: Float[Array, "B K D"], scenes: Float[Array, "B 2 D"]) -> Float[Array, "B K"]:
    """`max(instance . mean of the two scenes, 0)` (UniVIP Eq. 9-10), at most 1.

    # Deviation from the paper: instances and scenes are l2-normalised first, or their products would be near 100 at
    # initialisation and OTA's plan would outweigh the other terms.
    """
    # Precision is explicit: these are tiny products, and TensorFloat-32 would cost three digits.
    scenes = normalize(scenes).mean(1)
    return jax.nn.relu(jnp.einsum("bkd,bd->bk", normalize(instances), scenes, precision=jax.lax.Precision.HIGHEST))


def marginals(
    instances: Float[Array, "B K D"],
    scenes: Float[Array, "B 2 D"],
    spec: TransportSpec,
    total: Float[Array, " B"] | None = None,
) -> Float[Array, "B K"]:
    """How much each instance supplies or demands: its affinity with the scenes (UniVIP Eq. 9-10).

    # Deviation from the paper: Eq. 7 needs equal sums. Weights that must sum to `total` are raised by
    # `spec.marginal_floor` before, so that affinities which are all near 0 give near uniform weights.

    Args:
      total: what the weights of each image sum to; None: to the sum of the affinities.

    Returns float32, positive, finite for finite inputs.
    """
    weights = affinities(instances, scenes)
    if spec.marginals == "uniform":
        weights = jnp.broadcast_to(weights.mean(-1, keepdims=True), weights.shape)
    if total is None:
        return weights + _TINY
    weights = weights + spec.marginal_floor
    return total[:, None] * weights / weights.sum(-1, keepdims=True)


def transport_plan(
    cost: Float[Array, "B K K"],
    supply: Float[Array, "B K"],
    demand: Float[Array, "B K"],
    *,
    epsilon: float = 0.1,
    num_iters: int = 50,
) -> Float[Array, "B K K"]:
    """Sinkhorn's plan for each image (UniVIP Eq. 7), in the log domain, float32.

    Rows sum to `supply` and columns to `demand`, which must have equal sums. The number of iterations is fixed: a test
    of convergence over the batch would make the devices wait for each other at each iteration. The gradient is that of
    the unrolled iterations.
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

    return jax.vmap(solve)(*(at_least_float32(x) for x in (cost, supply, demand)))
