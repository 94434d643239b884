"""The plan against a NumPy loop and POT's exact solver; the marginals worked out by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import ot
import pytest

from univip_jax.common.errors import UserError
from univip_jax.transport import TransportSpec, marginals, normalize, transport_plan

GOOD = TransportSpec(0.1, 50, 1.0, "sinkhorn", "affinity", marginal_floor=0.05, stop_gradient=True)

plan_of = jax.jit(transport_plan, static_argnames=("epsilon", "num_iters"))
marginals_of = jax.jit(marginals, static_argnums=2)


def problems(batch: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Costs in 0..2, as 1 - cos has, and positive marginals of sum 1."""
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0, 2, (batch, k, k)).astype(np.float32)
    supply, demand = rng.uniform(0.1, 1, (2, batch, k)).astype(np.float32)
    return cost, supply / supply.sum(1, keepdims=True), demand / demand.sum(1, keepdims=True)


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_plan_is_that_of_a_numpy_loop(k):
    cost, supply, demand = problems(6, k)
    expected = [
        oracles.sinkhorn(*problem, epsilon=0.1, num_iters=50) for problem in zip(cost, supply, demand, strict=True)
    ]
    np.testing.assert_allclose(plan_of(cost, supply, demand, epsilon=0.1, num_iters=50), expected, atol=1e-5)


def test_plan_depends_on_epsilon_and_iterations_as_the_loop_does():
    """Few iterations and a coarse epsilon: the plan is far from converged, so an ignored option is noticed."""
    cost, supply, demand = problems(4, 4, seed=3)
    for epsilon, num_iters in [(0.02, 2), (0.02, 5), (1.0, 5)]:
        expected = [
            oracles.sinkhorn(*problem, epsilon, num_iters) for problem in zip(cost, supply, demand, strict=True)
        ]
        found = plan_of(cost, supply, demand, epsilon=epsilon, num_iters=num_iters)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_plan_nears_the_exact_one_as_epsilon_falls():
    """Random costs have one exact plan; the entropic plan's cost exceeds its by at most epsilon * log(K * K)."""
    cost, supply, demand = problems(8, 4, seed=1)
    found = np.asarray(plan_of(cost, supply, demand, epsilon=0.005, num_iters=4000), np.float64)
    for plan, c, b, a in zip(
        found, cost.astype(np.float64), supply.astype(np.float64), demand.astype(np.float64), strict=True
    ):
        exact = ot.emd(b / b.sum(), a / a.sum(), c)
        np.testing.assert_allclose(plan, exact, atol=1e-2)
        assert -1e-4 < np.sum(c * (plan - exact)) < 0.005 * np.log(16)


def test_plan_of_default_options_is_pots_entropic_plan():
    """Another library's Sinkhorn, run to convergence; the defaults are epsilon 0.1 and 50 iterations."""
    cost, supply, demand = problems(4, 4, seed=2)
    found = jax.jit(transport_plan)(cost, supply, demand)
    for plan, c, b, a in zip(
        found, cost.astype(np.float64), supply.astype(np.float64), demand.astype(np.float64), strict=True
    ):
        expected = ot.sinkhorn(b / b.sum(), a / a.sum(), c, 0.1, method="sinkhorn_log", numItermax=5000, stopThr=1e-12)
        np.testing.assert_allclose(plan, expected, atol=1e-3)


def test_rows_sum_to_supply_and_columns_to_demand():
    cost, supply, demand = problems(8, 4, seed=4)
    plan = np.asarray(plan_of(cost, supply, demand, epsilon=0.1, num_iters=500))
    np.testing.assert_allclose(plan.sum(2), supply, atol=1e-5)
    np.testing.assert_allclose(plan.sum(1), demand, atol=1e-5)
    assert not np.allclose(supply, demand, atol=0.05)
    assert (plan >= 0).all()


def test_plan_follows_a_permutation_of_rows_and_columns():
    cost, supply, demand = problems(3, 4, seed=5)
    rows, columns = np.array([2, 0, 3, 1]), np.array([1, 3, 2, 0])
    plan = np.asarray(plan_of(cost, supply, demand, epsilon=0.1, num_iters=50))
    moved = plan_of(cost[:, rows][:, :, columns], supply[:, rows], demand[:, columns], epsilon=0.1, num_iters=50)
    np.testing.assert_allclose(moved, plan[:, rows][:, :, columns], atol=1e-6)


def test_plan_of_uniform_cost_is_the_product_of_the_marginals():
    _, supply, demand = problems(3, 4, seed=6)
    plan = plan_of(np.full((3, 4, 4), 0.7, np.float32), supply, demand, epsilon=0.1, num_iters=50)
    np.testing.assert_allclose(plan, supply[:, :, None] * demand[:, None, :], atol=1e-6)


def test_plan_is_float32_and_finite_for_bfloat16_cost():
    cost, supply, demand = problems(2, 4)
    plan = plan_of(cost.astype(jnp.bfloat16), supply, demand, epsilon=0.1, num_iters=50)
    assert plan.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(plan).sum((1, 2)), 1.0, atol=1e-5)


def test_marginals_by_hand():
    """Unit scenes (1, 0) and (0, 1), mean (0.5, 0.5); unit instances (1, 0), (0.6, 0.8), (0, -1): 0.5, 0.7, 0."""
    instances = np.array([[[5.0, 0.0], [3.0, 4.0], [0.0, -9.0]]], np.float32)
    scenes = np.array([[[7.0, 0.0], [0.0, 2.0]]], np.float32)
    np.testing.assert_allclose(marginals_of(instances, scenes, GOOD), [[0.5, 0.7, 0.0]], atol=1e-6)
    weights = np.array([[0.55, 0.75, 0.05]]) / 1.35
    np.testing.assert_allclose(marginals_of(instances, scenes, GOOD, np.array([3.0])), 3 * weights, rtol=1e-5)
    uniform = replace(GOOD, marginals="uniform")
    np.testing.assert_allclose(marginals_of(instances, scenes, uniform), [[0.4, 0.4, 0.4]], rtol=1e-5)
    np.testing.assert_allclose(marginals_of(instances, scenes, uniform, np.array([3.0])), [[1, 1, 1]], rtol=1e-5)


@pytest.mark.parametrize("total", [None, 1.0, 4.0])
def test_marginals_of_random_features_are_numpys(total):
    rng = np.random.default_rng(7)
    instances, scenes = rng.normal(size=(16, 4, 8)), rng.normal(size=(16, 2, 8)) * [[[5.0], [0.3]]]
    expected = [oracles.marginals(i, s, total, 0.05) for i, s in zip(instances, scenes, strict=True)]
    given = None if total is None else np.full(16, total, np.float32)
    found = marginals_of(instances.astype(np.float32), scenes.astype(np.float32), GOOD, given)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert (np.asarray(found) > 0).all()


def test_marginals_of_images_do_not_mix():
    rng = np.random.default_rng(8)
    instances, scenes = rng.normal(size=(3, 4, 8)).astype(np.float32), rng.normal(size=(3, 2, 8)).astype(np.float32)
    before = np.asarray(marginals_of(instances, scenes, GOOD))
    instances[1] *= -1
    after = np.asarray(marginals_of(instances, scenes, GOOD))
    np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
    assert np.abs(before[1] - after[1]).max() > 0.01


@pytest.mark.parametrize("instances", [np.zeros((1, 4, 2)), -np.ones((1, 4, 2)), -1e6 * np.ones((1, 4, 2))])
def test_marginals_without_a_positive_product_are_uniform(instances):
    given = np.array([2.0], np.float32)
    found = marginals_of(instances.astype(np.float32), np.ones((1, 2, 2), np.float32), GOOD, given)
    np.testing.assert_allclose(found, np.full((1, 4), 0.5), rtol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e6, 1e30])
def test_marginals_do_not_depend_on_the_length_of_the_features(size):
    rng = np.random.default_rng(9)
    instances, scenes = rng.normal(size=(8, 4, 8)), rng.normal(size=(8, 2, 8))
    expected = [oracles.marginals(i, s, 1.0, 0.05) for i, s in zip(instances, scenes, strict=True)]
    scaled = [(size * x).astype(np.float32) for x in (instances, scenes)]
    np.testing.assert_allclose(marginals_of(*scaled, GOOD, np.ones(8, np.float32)), expected, rtol=1e-4, atol=1e-6)


def test_normalize_gives_unit_vectors_and_keeps_zero():
    x = np.array([[3.0, 4.0], [0.0, 0.0], [-3e30, 4e30], [3e-9, 4e-9]], np.float32)
    np.testing.assert_allclose(normalize(jnp.asarray(x)), [[0.6, 0.8], [0, 0], [-0.6, 0.8], [0.6, 0.8]], rtol=1e-5)


def test_gradient_of_normalize_is_the_projection_off_x_over_its_length():
    """d(x / |x|) = (I - u u') / |x|; the division by the largest entry, a constant, must not show."""
    x, v = np.array([1.0, -2.0, 2.0]), np.array([0.3, 0.5, -0.7])
    expected = (v - (v @ x / 9) * x) / 3
    np.testing.assert_allclose(jax.grad(lambda x: normalize(x) @ v)(jnp.asarray(x, jnp.float32)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", 0.0),
        ("num_iters", 0),
        ("plan_mass", -2.0),
        ("plan", "exact"),
        ("marginals", "equal"),
        ("marginal_floor", 0.0),
        ("epsilon", float("nan")),
    ],
)
def test_a_bad_spec_is_refused_by_the_field_s_name(field, value):
    with pytest.raises(UserError, match=f"transport.{field}"):
        replace(GOOD, **{field: value})


def test_iterations_that_would_miss_the_marginals_are_refused_with_enough():
    """Unequal marginals that cross: at epsilon 0.01, 50 iterations leave a tenth of the mass in wrong columns."""
    supply = np.array([[0.4, 0.3, 0.2, 0.1]], np.float32)
    cost = np.where(np.eye(4), 0.1, 0.7).astype(np.float32)[None]

    def missed(epsilon, num_iters):
        plan = plan_of(cost, supply, supply[:, ::-1], epsilon=epsilon, num_iters=num_iters)
        return np.abs(np.asarray(plan).sum(1) - supply[:, ::-1]).sum()

    assert missed(0.01, 50) > 0.1
    with pytest.raises(UserError, match=r"num_iters=50 is too few .*; give --config\.transport\.num_iters=400 or more"):
        replace(GOOD, epsilon=0.01)
    for epsilon in (0.01, 0.02, 0.05, 0.1, 0.5):
        assert missed(epsilon, replace(GOOD, epsilon=epsilon, num_iters=400).num_iters) < 0.01
        assert missed(epsilon, int(4 / epsilon)) < 0.02
