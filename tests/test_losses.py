"""The three terms against NumPy by hand, their gradients, and features at the edge of what float32 holds."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from univip_jax.common.errors import UserError
from univip_jax.losses import LossSpec, cosine, instance_loss, plan_metrics, scene_instance_loss, scene_loss
from univip_jax.transport import TransportSpec
from univip_jax.types import OnlineOutputs, TargetOutputs

B, D = 3, 8
QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time; nothing here runs for long
TRANSPORT = TransportSpec(0.1, 50, 1.0, "sinkhorn", "affinity", marginal_floor=0.05, stop_gradient=True)
READINGS = {
    "one": TRANSPORT,
    "K": replace(TRANSPORT, plan_mass=0.0),
    "OTA": replace(TRANSPORT, plan_mass=-1.0),
    "uniform": replace(TRANSPORT, marginals="uniform"),
    "OTA's mass, uniform": replace(TRANSPORT, plan_mass=-1.0, marginals="uniform"),
    "diagonal": replace(TRANSPORT, plan="diagonal"),
    "OTA's mass, diagonal": replace(TRANSPORT, plan="diagonal", plan_mass=-1.0),
    "through the plan": replace(TRANSPORT, stop_gradient=False),
    "OTA's mass, through the plan": replace(TRANSPORT, stop_gradient=False, plan_mass=-1.0),
}


def outputs(k: int, seed: int = 0, kind=np.float32) -> tuple[OnlineOutputs, TargetOutputs]:
    """Random features, each scene of its own length."""
    rng = np.random.default_rng(seed)
    lengths = np.array([[[0.5], [4.0]]])
    online = OnlineOutputs(
        (rng.normal(size=(B, 2, D)) * lengths).astype(kind),
        rng.normal(size=(B, k, D)).astype(kind),
        rng.normal(size=(B, D)).astype(kind),
    )
    return online, TargetOutputs(
        (rng.normal(size=(B, 2, D)) * lengths[:, ::-1]).astype(kind), rng.normal(size=(B, k, D)).astype(kind)
    )


def all_terms(online: OnlineOutputs, target: TargetOutputs) -> jax.Array:
    """The three losses of each image, [3, B]."""
    return jnp.stack(
        [
            scene_loss(online.scenes, target.scenes),
            scene_instance_loss(online.merged, target.scenes),
            instance_loss(online, target, TRANSPORT)[0],
        ]
    )


@cache
def gradients(term: int):
    """Jitted: the gradient of one term with respect to (online, target)."""
    return jax.jit(
        jax.grad(lambda online, target: all_terms(online, target)[term].sum(), argnums=(0, 1)), compiler_options=QUICK
    )


values = jax.jit(all_terms, compiler_options=QUICK)
instance = jax.jit(instance_loss, static_argnums=2, compiler_options=QUICK)


def test_scene_loss_compares_each_view_with_the_other_view_of_the_target():
    online, target = outputs(2)
    expected = [
        -oracles.cosine(o[0], t[1]) - oracles.cosine(o[1], t[0])
        for o, t in zip(online.scenes, target.scenes, strict=True)
    ]
    np.testing.assert_allclose(jax.jit(scene_loss)(online.scenes, target.scenes), expected, atol=1e-6)


def test_scene_loss_is_minus_two_for_crossed_and_zero_for_equal_orthogonal_views():
    """Views along different axes: crossed they agree, straight they are orthogonal."""
    online = np.tile(np.eye(2, dtype=np.float32), (1, 1, 1))
    np.testing.assert_allclose(jax.jit(scene_loss)(online, online[:, ::-1] * 7), [-2.0], atol=1e-6)
    np.testing.assert_allclose(jax.jit(scene_loss)(online, online), [0.0], atol=1e-6)


def test_scene_instance_loss_compares_merged_with_both_views():
    online, target = outputs(2)
    expected = [
        -oracles.cosine(m, t[0]) - oracles.cosine(m, t[1]) for m, t in zip(online.merged, target.scenes, strict=True)
    ]
    np.testing.assert_allclose(jax.jit(scene_instance_loss)(online.merged, target.scenes), expected, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4, 8])
@pytest.mark.parametrize("reading", READINGS)
def test_instance_loss_of_every_reading_is_numpys(reading, k):
    """Supply from online instances and target scenes (Eq. 9), demand from target instances and online scenes (10)."""
    online, target = outputs(k, seed=k)
    spec = READINGS[reading]
    losses, plans = instance(online, target, spec)
    for image in range(B):
        o, t = online.instances[image], target.instances[image]
        plan = oracles.instance_plan(o, t, online.scenes[image], target.scenes[image], spec)
        np.testing.assert_allclose(plans[image], plan, atol=2e-5 * max(1, k * (spec.plan_mass == 0)))
        np.testing.assert_allclose(losses[image], -np.sum(oracles.unit(o) @ oracles.unit(t).T * plan), atol=1e-4)


def test_the_gradient_through_the_plan_is_that_of_finite_differences():
    """In float64; with the plan as a constant it is another one."""
    with jax.enable_x64(True):
        online, target = jax.tree.map(jnp.asarray, outputs(3, seed=1, kind=np.float64))
        for reading in ("through the plan", "OTA's mass, through the plan"):
            spec = READINGS[reading]

            def loss(o, spec=spec):
                return instance_loss(online._replace(instances=o), target, spec)[0].sum()

            gradient = jax.jit(jax.grad(loss), compiler_options=QUICK)(online.instances)
            direction = np.random.default_rng(2).normal(size=gradient.shape)
            step = 1e-5 * direction
            values = jax.jit(loss, compiler_options=QUICK)
            slope = (values(online.instances + step) - values(online.instances - step)) / 2e-5
            np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-5)
            constant = jax.grad(partial(loss, spec=replace(spec, stop_gradient=True)))(online.instances)
            assert np.abs(constant - gradient).max() > 1e-3


@pytest.mark.parametrize("reading", READINGS)
def test_an_infinitesimal_change_of_a_score_does_not_move_the_mass(reading):
    """Scores a hair above and below 0, on either side: dividing by the largest made noise into certainty."""
    eye = np.eye(4, D, dtype=np.float32)
    hair = np.array([1e-6, -0.3, -0.3, -0.3], np.float32)
    far = np.array([0.5, 0.2, 0.1, 0.4], np.float32)  # the other side's scores: its mass is not 0

    def scene(scores):
        rest = np.sqrt(1 - np.sum(scores**2))
        return np.tile(scores @ eye + rest * np.eye(1, D, 7, dtype=np.float32), (1, 2, 1))

    def plan(supply, demand):
        online, target = scene(demand), scene(supply)
        return instance(OnlineOutputs(online, eye[None], online[:, 0]), TargetOutputs(target, eye[None]), spec)[1]

    spec = READINGS[reading]
    for above, below in (((hair, far), (-hair * [1, -1, -1, -1], far)), ((far, hair), (far, hair * [-1, 1, 1, 1]))):
        np.testing.assert_allclose(plan(*above), plan(*below), atol=1e-3)


def test_identical_one_hot_instances_give_the_diagonal_plan():
    """Cost 0 on the diagonal and 1 beside it: exp(-10) of the mass strays; the loss is - plan_mass."""
    eye = np.eye(4, D, dtype=np.float32)[None]
    scenes = np.ones((1, 2, D), np.float32)
    online = OnlineOutputs(scenes, eye, scenes[:, 0])
    loss, plan = instance(online, TargetOutputs(scenes, eye), TRANSPORT)
    np.testing.assert_allclose(plan, np.eye(4)[None] / 4, atol=1e-4)
    np.testing.assert_allclose(loss, [-1.0], atol=2e-4)


def test_permuted_one_hot_instances_are_matched_by_the_plan():
    """Online m is target order[m]: the plan is that permutation, with online in the rows."""
    order = [2, 0, 3, 1]
    eye = np.eye(4, D, dtype=np.float32)[None]
    scenes = np.ones((1, 2, D), np.float32)
    loss, plan = instance(OnlineOutputs(scenes, eye[:, order], scenes[:, 0]), TargetOutputs(scenes, eye), TRANSPORT)
    np.testing.assert_allclose(plan[0], np.eye(4)[order] / 4, atol=1e-4)
    np.testing.assert_allclose(loss, [-1.0], atol=2e-4)


@pytest.mark.parametrize("term", [0, 1, 2])
def test_no_gradient_reaches_the_target_and_the_term_s_own_inputs_get_one(term):
    online, target = outputs(4)
    of_online, of_target = gradients(term)(online, target)
    for gradient in jax.tree.leaves(of_target):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))
    used = [("scenes",), ("merged",), ("instances",)][term]
    for field in online._fields:
        norms = np.linalg.norm(getattr(of_online, field), axis=-1)
        # The instance term sees the online scenes only through the plan, which is a constant.
        assert (norms > 1e-4).all() if field in used else (norms == 0).all(), field


def test_gradient_of_scene_loss_by_hand():
    """d(-cos(o, t)) / do = -(t^ - cos o^) / |o|."""
    online, target = outputs(4)
    found, _ = gradients(0)(online, target)
    for image in range(B):
        for view in range(2):
            o, t = online.scenes[image, view], target.scenes[image, 1 - view]
            expected = -(oracles.unit(t) - oracles.cosine(o, t) * oracles.unit(o)) / np.linalg.norm(o)
            np.testing.assert_allclose(found.scenes[image, view], expected, atol=1e-5)


def test_gradient_of_instance_loss_treats_the_plan_as_a_constant():
    """- sum_n y_mn (t_n^ - cos o_m^) / |o_m| with the plan that came out."""
    online, target = outputs(4)
    found, _ = gradients(2)(online, target)
    plan = np.asarray(instance(online, target, TRANSPORT)[1], np.float64)
    for image in range(B):
        for m in range(4):
            o = online.instances[image, m]
            expected = -sum(
                plan[image, m, n] * (oracles.unit(t) - oracles.cosine(o, t) * oracles.unit(o)) / np.linalg.norm(o)
                for n, t in enumerate(target.instances[image])
            )
            np.testing.assert_allclose(found.instances[image, m], expected, atol=1e-5)


def scaled(factor: float, kind=np.float32):
    online, target = outputs(4)
    with np.errstate(over="raise"):
        return jax.tree.map(lambda x: (x * np.float32(factor)).astype(kind), (online, target))


def extremes() -> dict:
    """Features that broke, or would break, a plain implementation."""
    negative = jax.tree.map(lambda x: -np.abs(x), outputs(4))
    opposite = (negative[0], jax.tree.map(np.abs, negative[1]))  # every product of a marginal is negative
    one_zero = jax.tree.map(np.copy, outputs(4))
    for part in one_zero:
        part.scenes[0, 0] = 0
        part.instances[0, 1] = 0
    return {
        "zero": scaled(0.0),
        "one zero": one_zero,
        "negative": negative,
        "opposite": opposite,
        "1e-30": scaled(1e-30),
        "1e6": scaled(1e6),
        "1e30": scaled(1e30),
        "bfloat16": scaled(1.0, jnp.bfloat16),
        "1e30 in bfloat16": scaled(1e30, jnp.bfloat16),
    }


@cache
def instance_gradients(reading: str):
    """Jitted: (losses, gradient of their sum with respect to both sides) of a reading."""

    def loss(both):
        losses = instance_loss(*both, READINGS[reading])[0]
        return losses.sum(), losses

    return jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)


@pytest.mark.parametrize("reading", READINGS)
def test_every_reading_is_finite_for_extreme_features(reading):
    for case, both in extremes().items():
        gradient, losses = instance_gradients(reading)(both)
        assert losses.dtype == jnp.float32 and np.isfinite(losses).all(), case
        assert (np.abs(losses) <= 4 + 1e-3).all(), case  # the mass is at most K
        for leaf in jax.tree.leaves(gradient):
            assert np.isfinite(np.asarray(leaf, np.float32)).all(), case


def test_plan_metrics_by_hand():
    """Half of the mass of image 0 stays on the diagonal; image 1 is the diagonal plan of orthogonal instances."""
    eye = np.eye(2, D, dtype=np.float32)
    plan = jnp.array([[[0.1, 0.2], [0.0, 0.1]], [[3.0, 0.0], [0.0, 1.0]]])
    same = np.array([[1.0, 0.0], [0.6, 0.8]]) @ eye  # cosines 1, 0 / 0.6, 0.8
    scenes = jnp.zeros((2, 2, D))
    online = OnlineOutputs(scenes, jnp.stack([same, eye]), scenes[:, 0])
    found = plan_metrics(online, TargetOutputs(scenes, jnp.stack([eye, eye])), plan)
    expected = {
        "plan/diagonal": (0.5 + 1.0) / 2,
        "plan/marginal_tv": (0.5 + 0.0) / 2,  # supply (0.3, 0.1) / 0.4, demand (0.1, 0.3) / 0.4
        "plan/mass": (0.4 + 4.0) / 2,
        "plan/cosine_same": (0.9 + 1.0) / 2,
        "plan/cosine_other": (0.3 + 0.0) / 2,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", extremes())
def test_extreme_features_give_finite_losses_and_gradients(case):
    online, target = extremes()[case]
    found = values(online, target)
    assert found.dtype == jnp.float32 and found.shape == (3, B)
    assert np.isfinite(found).all()
    assert (np.abs(found) <= 2 + 1e-3).all()  # at most two cosines, or a plan of mass 1
    for term in range(3):
        for gradient in jax.tree.leaves(gradients(term)(online, target)):
            assert np.isfinite(np.asarray(gradient, np.float32)).all()


@pytest.mark.parametrize("factor", [1e6, 1e30])
def test_losses_do_not_depend_on_the_length_of_the_features(factor):
    np.testing.assert_allclose(values(*scaled(factor)), values(*scaled(1.0)), atol=1e-5)


def test_bfloat16_features_lose_no_more_than_their_own_rounding():
    rounded = jax.tree.map(lambda x: np.asarray(x, np.float32), scaled(1.0, jnp.bfloat16))
    np.testing.assert_allclose(values(*scaled(1.0, jnp.bfloat16)), values(*rounded), atol=1e-5)


def test_zero_features_have_a_cosine_of_zero():
    np.testing.assert_array_equal(cosine(jnp.zeros((2, D)), jnp.ones((2, D))), [0.0, 0.0])


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ((-1.0, 1.0, 1.0, 2.0), "loss.scene=-1"),
        ((1.0, float("nan"), 1.0, 2.0), "loss.scene_instance=nan"),
        ((0.0, 0.0, 0.0, 2.0), "all 0"),
        ((1.0, 1.0, 1.0, 0.0), "loss.scale=0"),
    ],
)
def test_a_bad_spec_is_refused_by_the_field_s_name(weights, named):
    with pytest.raises(UserError, match=named):
        LossSpec(*weights)


def test_instances_are_needed_by_either_instance_term_only():
    found = [LossSpec(1.0, si, i, 2.0).needs_instances for si, i in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]]
    assert found == [False, True, True, True]
