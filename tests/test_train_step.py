"""One step of a tiny network: moving average, what changes, what a step that is not finite leaves."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coco
from univip_jax.augment import AugmentSpec
from univip_jax.config import to_spec
from univip_jax.losses import LossSpec
from univip_jax.models.univip import ModelSpec
from univip_jax.optim import OptimizerSpec
from univip_jax.plan import Plan
from univip_jax.sharding import make_mesh
from univip_jax.train_step import augment_views, feature_std, lower_step, train_step
from univip_jax.transport import TransportSpec
from univip_jax.types import Batch
from univip_jax.views import ViewSpec

B, K, TOTAL_STEPS, PEAK = 4, 2, 100, 0.1
LR = PEAK * (1 + np.cos(0.3 * np.pi)) / 2  # without warm-up, at step 30 of 100
MESH = make_mesh(jax.devices()[:1])
QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time; nothing here runs for long
AUGMENT = to_spec(AugmentSpec, coco.get_config(), "augment")
TRANSPORT = to_spec(TransportSpec, coco.get_config(), "transport")
MODEL = replace(
    to_spec(ModelSpec, coco.get_config(), "model"),
    **{"backbone": "resnet10", "width": 0.125, "stem": "small", "hidden": 16, "projection": 8, "dtype": "float32"},
)
VIEWS = replace(to_spec(ViewSpec, coco.get_config(), "views"), num_instances=K)
PLAN = Plan(
    seed=0,
    model=MODEL,
    augment=AUGMENT,
    views=VIEWS,
    loss=LossSpec(1.0, 1.0, 1.0, 2.0),
    transport=TRANSPORT,
    optimizer=OptimizerSpec("sgd", PEAK, 0.9, 1e-4, 1e-3, warmup_epochs=0.0),
    ema_base=0.99,
    batch_size=256,  # of which `lr` is the rate
    steps_per_epoch=10,
    total_steps=TOTAL_STEPS,
)


def leaves(tree) -> dict[str, np.ndarray]:
    """Path to leaf, on the host."""
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.fixture(scope="module")
def step():
    """The step of PLAN, compiled once."""
    return jax.jit(lambda state, batch: train_step(state, batch, PLAN, MESH), compiler_options=QUICK)


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    return Batch(rng.integers(0, 256, (B, 2, 32, 32, 3), np.uint8), rng.integers(0, 256, (B, K, 20, 20, 3), np.uint8))


@pytest.fixture(scope="module")
def start():
    return jax.jit(PLAN.init_state, compiler_options=QUICK)()


@pytest.fixture(scope="module")
def drifted(start):
    """A state in the middle of a run: the target's leaves and statistics are not the online ones."""
    shift = lambda tree: jax.tree.map(lambda x: x * 1.25 + 0.01, tree)  # noqa: E731
    return start.replace(
        step=jnp.asarray(30, jnp.int32),
        target_params=shift(start.target_params),
        target_batch_stats=shift(start.target_batch_stats),
    )


@pytest.fixture(scope="module")
def after(step, drifted, batch):
    """(new state, metrics) of one step from `drifted`."""
    return step(drifted, batch)


def test_the_target_starts_as_a_copy_of_the_encoder(start):
    assert leaves(start.target_params).keys() == leaves(start.params["encoder"]).keys()
    for name, leaf in leaves(start.target_params).items():
        np.testing.assert_array_equal(leaf, leaves(start.params["encoder"])[name])
    for name, leaf in leaves(start.target_batch_stats).items():
        np.testing.assert_array_equal(leaf, leaves(start.batch_stats["encoder"])[name])
    assert start.step == 0 and start.bad_steps == 0
    assert set(start.params) == {"encoder", "predictor", "f_linear"}


def test_the_initial_state_depends_on_the_seed_only(start):
    def kernel(seed: int) -> jax.Array:
        return jax.jit(
            lambda: replace(PLAN, seed=seed).init_state().params["f_linear"]["kernel"]
        )()  # XLA drops the rest

    np.testing.assert_allclose(kernel(0), start.params["f_linear"]["kernel"], atol=1e-6)
    assert np.abs(kernel(1) - kernel(0)).max() > 0.01


def test_the_target_is_the_moving_average_of_the_new_parameters(drifted, after):
    """m * target + (1 - m) * new online, leaf by leaf, m by hand for step 30 of 100."""
    momentum = 1 - 0.01 * (np.cos(0.3 * np.pi) + 1) / 2
    old, new, online = leaves(drifted.target_params), leaves(after[0].target_params), leaves(after[0].params["encoder"])
    assert old.keys() == new.keys() == online.keys()
    for name, leaf in new.items():
        np.testing.assert_allclose(leaf, momentum * old[name] + (1 - momentum) * online[name], atol=1e-6, err_msg=name)
    np.testing.assert_allclose(after[1]["train/target_momentum"], momentum, rtol=1e-6)


def test_every_parameter_is_trained(drifted, after):
    """Backbone, projector, predictor and f_linear.

    A bias before a batch norm, linear1's, has no gradient but rounding, and starts at 0, so that nothing decays it.
    """
    old, new = leaves(drifted.params), leaves(after[0].params)
    for part in ("backbone", "projector", "predictor", "f_linear"):
        assert any(part in name for name in old)
    for name, leaf in new.items():
        if not name.endswith("['linear1']['bias']"):
            assert np.abs(leaf - old[name]).max() > 1e-6, name


def test_the_update_is_the_learning_rate_times_the_gradient(drifted, after):
    """The momentum buffer starts at 0: after one step it is gradient + decay, and the parameter moves by lr times it.

    `drifted` moved `step` alone: the optimizer counts its own steps, and is at the peak.
    """
    buffer = leaves(jax.tree_util.tree_leaves(after[0].opt_state, is_leaf=lambda x: isinstance(x, dict))[0])
    old, new = leaves(drifted.params), leaves(after[0].params)
    assert buffer.keys() == old.keys()
    for name, leaf in buffer.items():
        np.testing.assert_allclose(new[name], old[name] - PEAK * leaf, atol=1e-6, err_msg=name)
    norm = np.sqrt(sum(np.sum((leaf - 1e-4 * old[name]).astype(np.float64) ** 2) for name, leaf in buffer.items()))
    np.testing.assert_allclose(after[1]["train/grad_norm"], norm, rtol=1e-4)


def test_both_networks_update_their_own_statistics(drifted, after):
    """Each leaf of both moves; both saw the same pictures, but the target's started elsewhere."""
    new = leaves(after[0].batch_stats)
    for name, leaf in leaves(drifted.batch_stats).items():
        assert np.abs(new[name] - leaf).max() > 1e-6, name
    old_target, new_target = leaves(drifted.target_batch_stats), leaves(after[0].target_batch_stats)
    for name, leaf in new_target.items():
        assert np.abs(leaf - old_target[name]).max() > 1e-6, name
        assert np.abs(leaf - leaves(after[0].batch_stats["encoder"])[name]).max() > 1e-6, name


def test_metrics_of_a_good_step(after):
    state, metrics = after
    assert state.step == 31 and state.bad_steps == 0 and metrics["train/bad_steps"] == 0
    terms = [float(metrics[f"train/loss_{name}"]) for name in ("scene", "scene_instance", "instance")]
    np.testing.assert_allclose(metrics["train/loss"], 2 * sum(terms), rtol=1e-5)
    assert all(np.isfinite(float(value)) for value in metrics.values())
    np.testing.assert_allclose(metrics["train/learning_rate"], LR, rtol=1e-6)


def test_a_step_is_a_pure_function_of_state_and_batch(step, drifted, batch, after):
    again = step(drifted, batch)
    for name, leaf in leaves(again).items():
        np.testing.assert_array_equal(leaf, leaves(after)[name], err_msg=name)


def test_the_random_draws_of_a_step_follow_its_number(step, drifted, batch, after):
    """Same parameters, other step: other augmentation, other loss."""
    _, metrics = step(drifted.replace(step=drifted.step + 1), batch)
    assert abs(float(metrics["train/loss"]) - float(after[1]["train/loss"])) > 1e-4


@pytest.mark.parametrize("place", ["params", "target_params"])
def test_a_step_that_is_not_finite_changes_only_the_counters(step, drifted, batch, place):
    """NaN in one weight, as a flipped bit or an overflow leaves it."""
    tree = dict(getattr(drifted, place))
    part = "f_linear" if place == "params" else "projector"
    tree[part] = jax.tree.map(lambda x: x.at[0].set(jnp.nan), tree[part])
    broken = drifted.replace(**{place: tree}, bad_steps=jnp.asarray(4, jnp.int32))
    new, metrics = step(broken, batch)
    assert not np.isfinite(metrics["train/loss"])
    assert new.step == 31 and new.bad_steps == 5 and metrics["train/bad_steps"] == 5
    for name, leaf in leaves(new.replace(step=broken.step, bad_steps=broken.bad_steps)).items():
        np.testing.assert_array_equal(leaf, leaves(broken)[name], err_msg=name)


def test_views_are_augmented_by_separate_draws_and_scene_two_alone_solarizes(batch):
    """One photo everywhere: with flips only, a crop comes out straight or mirrored, each by its own draw."""
    photo = np.broadcast_to(np.arange(8, dtype=np.uint8)[None, :, None] * 16, (8, 8, 3))
    many = Batch(jnp.tile(photo, (64, 2, 1, 1, 1)), jnp.tile(photo, (64, K, 1, 1, 1)))
    spec = replace(AUGMENT, jitter=0.0, greyscale=0.0, blur=(0.0, 0.0), solarize=(0.0, 1.0))
    views, again = jax.jit(lambda key: augment_views(key, many, spec))(jax.random.key(0))
    np.testing.assert_array_equal(again, views.instances)
    assert views.scenes.shape == (64, 2, 8, 8, 3) and views.instances.shape == (64, K, 8, 8, 3)
    crops = np.concatenate([views.scenes, views.instances], axis=1)
    flipped = crops[:, :, 0, 0, 0] > crops[:, :, 0, -1, 0]
    assert (flipped.sum(0) > 16).all() and (flipped.sum(0) < 48).all()
    for first in range(2 + K):
        for second in range(first):
            assert 16 < (flipped[:, first] != flipped[:, second]).sum() < 48
    # All of its pixels are below 128: solarizing leaves them, so the views differ by flips alone.
    np.testing.assert_array_equal(np.sort(crops, axis=3), np.broadcast_to(np.sort(crops[0, 0], axis=1), crops.shape))


def test_views_without_instances_stay_without():
    batch = Batch(jnp.zeros((2, 2, 8, 8, 3), jnp.uint8), jnp.zeros((2, 0, 8, 8, 3), jnp.uint8))
    views, _ = jax.eval_shape(lambda: augment_views(jax.random.key(0), batch, AUGMENT))
    assert views.scenes.shape == (2, 2, 8, 8, 3) and views.instances.shape == (2, 0, 8, 8, 3)


def test_independent_instances_are_drawn_anew_for_the_target(batch):
    spec = replace(AUGMENT, instances="independent")
    views, again = jax.jit(lambda batch: augment_views(jax.random.key(0), batch, spec))(batch)
    assert again.shape == views.instances.shape
    differ = np.abs(np.asarray(again) - np.asarray(views.instances)).max((2, 3, 4))
    assert (differ > 0.1).all()
    shared, _ = jax.jit(lambda batch: augment_views(jax.random.key(0), batch, AUGMENT))(batch)
    np.testing.assert_allclose(shared.instances, views.instances, atol=1e-5)


def test_two_views_of_an_instance_are_augmented_as_the_two_scenes_are(batch):
    """Without other draws: no blur for the online network, solarized pixels for the target alone."""
    spec = replace(AUGMENT, flip=0.0, jitter=0.0, greyscale=0.0, blur=(0.0, 0.0), solarize=(0.0, 1.0))
    spec = replace(spec, instances="two_views")
    online, target = jax.jit(lambda batch: augment_views(jax.random.key(0), batch, spec))(batch)

    def normalized(pixels):
        return (pixels / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])

    np.testing.assert_allclose(online.instances, normalized(batch.instances), atol=1e-5)
    solarized = np.where(batch.instances >= 128, 255 - batch.instances.astype(float), batch.instances)
    np.testing.assert_allclose(target, normalized(solarized), atol=1e-5)


def test_byol_s_step_needs_neither_instances_nor_f_linear(batch):
    """Table 7, row a: the state has no f_linear, the batch no instance, the metrics no instance term."""
    plan = replace(PLAN, loss=LossSpec(1.0, 0.0, 0.0, 2.0), views=replace(VIEWS, num_instances=0))
    small, structures = Batch(batch.scenes, batch.instances[:, :0]), []

    def run(batch):
        state = plan.init_state()
        new, metrics = train_step(state, batch, plan, MESH)
        structures.extend(map(jax.tree.structure, (state, new)))
        return new.params, metrics

    params, metrics = jax.eval_shape(run, small)
    assert set(params) == {"encoder", "predictor"}
    assert structures[0] == structures[1]
    assert {name for name in metrics if "loss" in name} == {"train/loss", "train/loss_scene"}


def test_feature_std_of_collapse_is_zero_and_of_one_hot_rows_by_hand():
    """Rows e_1..e_4 of 4: each coordinate is 1 once in 4, std sqrt(3) / 4, times sqrt(4)."""
    np.testing.assert_allclose(feature_std(jnp.ones((5, 4)) * 3.0), 0.0, atol=1e-6)
    np.testing.assert_allclose(feature_std(7.0 * jnp.eye(4)), np.sqrt(3) / 2, rtol=1e-5)


def test_equal_plans_share_one_compiled_step():
    same = replace(PLAN, seed=0)
    assert same == PLAN and hash(same) == hash(PLAN) and same is not PLAN
    assert lower_step(replace(PLAN, batch_size=4), MESH) is lower_step(replace(PLAN, batch_size=4, seed=0), MESH)
    assert replace(PLAN, ema_base=0.98) != PLAN
