"""Schedules at chosen steps by hand; both optimizers against NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from univip_jax.common.errors import UserError
from univip_jax.optim import OptimizerSpec, is_kernel, learning_rate, make_optimizer, target_momentum

SGD = OptimizerSpec(name="sgd", lr=0.2, momentum=0.9, weight_decay=1e-2, trust_coefficient=1e-3, warmup_epochs=4.0)
LARS = OptimizerSpec(name="lars", lr=0.3, momentum=0.9, weight_decay=1e-2, trust_coefficient=1e-3, warmup_epochs=10.0)


def test_learning_rate_of_coco_by_hand():
    """118287 photos in batches of 512: 231 steps an epoch; the peak is 0.2 * 512 / 256 after 4 epochs."""
    epoch, total = 231, 800 * 231
    schedule = learning_rate(SGD, batch_size=512, total_steps=total, steps_per_epoch=epoch)
    assert schedule(0) == 0
    np.testing.assert_allclose(schedule(1), 0.4 / 924, rtol=1e-4)
    np.testing.assert_allclose(schedule(epoch), 0.1, rtol=1e-5)  # linear: a quarter of the way up
    np.testing.assert_allclose(schedule(4 * epoch), 0.4, rtol=1e-6)
    np.testing.assert_allclose(schedule((4 + 800) * epoch // 2), 0.2, rtol=1e-4)  # half of the cosine
    quarter = 4 * epoch + (total - 4 * epoch) // 4
    np.testing.assert_allclose(schedule(quarter), 0.4 * (1 + np.cos(np.pi / 4)) / 2, rtol=1e-4)
    np.testing.assert_allclose(schedule(total), 0.0, atol=1e-8)
    np.testing.assert_allclose(schedule(total + 5), 0.0, atol=1e-8)


def test_learning_rate_grows_with_the_batch():
    options = {"total_steps": 1000, "steps_per_epoch": 10}
    small, large = (learning_rate(LARS, batch_size=size, **options) for size in (256, 4096))
    np.testing.assert_allclose([small(100), large(100)], [0.3, 4.8], rtol=1e-6)


def test_without_warm_up_the_first_step_has_the_peak():
    spec = OptimizerSpec("sgd", 0.2, 0.9, 0.0, 1e-3, warmup_epochs=0.0)
    schedule = learning_rate(spec, batch_size=256, total_steps=10, steps_per_epoch=5)
    np.testing.assert_allclose([schedule(0), schedule(5)], [0.2, 0.1], rtol=1e-6)


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(UserError, match=r"optimizer\.warmup_epochs=4\.0 is 40 steps, the whole run 40"):
        learning_rate(SGD, batch_size=512, total_steps=40, steps_per_epoch=10)


def test_target_momentum_at_start_quarter_half_and_end():
    """1 - 0.01 (cos(pi k / K) + 1) / 2."""
    schedule = target_momentum(0.99, 1000)
    quarter = 1 - 0.01 * (np.sqrt(0.5) + 1) / 2
    found = [schedule(jnp.asarray(step)) for step in (0, 250, 500, 1000)]
    np.testing.assert_allclose(found, [0.99, quarter, 0.995, 1.0], atol=1e-6)


@pytest.mark.parametrize("base", [-0.1, 1.01])
def test_a_target_momentum_outside_0_to_1_is_refused(base):
    with pytest.raises(UserError, match=r"ema\.base"):
        target_momentum(base, 10)


def tree(seed: int) -> dict:
    """A linear layer, a convolution and a batch norm."""
    rng = np.random.default_rng(seed)
    shapes = {
        "linear": {"kernel": (4, 3), "bias": (3,)},
        "conv": {"kernel": (3, 3, 2, 4)},
        "bn": {"scale": (4,), "bias": (4,)},
    }
    return {
        layer: {name: rng.normal(size=shape).astype(np.float32) for name, shape in leaves.items()}
        for layer, leaves in shapes.items()
    }


def run(spec: OptimizerSpec, rates: list[float], grads: list[dict]) -> dict:
    """Parameters after steps of our optimizer with those learning rates."""
    optimizer = make_optimizer(spec, lambda step: jnp.asarray(rates)[step])
    params = jax.tree.map(jnp.asarray, tree(0))
    state = optimizer.init(params)
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_trees_close(found: dict, expected: dict, start: dict) -> None:
    """Leaf by leaf, relative to how far the leaf went."""
    for layer, leaves in expected.items():
        for name, leaf in leaves.items():
            moved = np.abs(leaf - start[layer][name]).max()
            assert moved > 0
            np.testing.assert_allclose(
                found[layer][name], leaf, atol=2e-7 + 1e-3 * moved, rtol=0, err_msg=f"{layer}.{name}"
            )


def test_three_steps_of_sgd_in_pytorchs_order():
    """g += decay * p; v = 0.9 v + g; p -= lr * v, for every parameter, biases and scales too."""
    rates, grads = [0.1, 0.3, 0.2], [tree(1), tree(2), tree(3)]
    found = run(SGD, rates, grads)
    for layer, leaves in tree(0).items():
        for name, start in leaves.items():
            p, v = start.astype(np.float64), 0.0
            for rate, grad in zip(rates, grads, strict=True):
                v = 0.9 * v + grad[layer][name] + 1e-2 * p
                p = p - rate * v
            np.testing.assert_allclose(found[layer][name], p, atol=1e-6, err_msg=f"{layer}.{name}")


def test_three_steps_of_lars():
    """Kernels: decay, then a step of lr * 1e-3 |w| / |g + decay w|, then momentum. Others: plain momentum SGD."""
    rates, grads = [1.0, 3.0, 2.0], [tree(1), tree(2), tree(3)]
    found = run(LARS, rates, grads)
    expected = {}
    for layer, leaves in tree(0).items():
        expected[layer] = {}
        for name, start in leaves.items():
            p, v = start.astype(np.float64), 0.0
            for rate, grad in zip(rates, grads, strict=True):
                g = grad[layer][name].astype(np.float64)
                if name == "kernel":
                    g = g + 1e-2 * p
                    g = g * 1e-3 * np.linalg.norm(p) / np.linalg.norm(g)
                v = 0.9 * v + rate * g
                p = p - v
            expected[layer][name] = p
    assert_trees_close(found, expected, tree(0))


def test_lars_moves_a_kernel_by_a_thousandth_of_its_norm_whatever_the_gradient():
    start = tree(0)
    for factor in (1e-3, 1e3):
        grad = jax.tree.map(lambda g, factor=factor: g * factor, tree(1))
        spec = OptimizerSpec("lars", 0.3, 0.9, 0.0, 1e-3, 10.0)
        found = run(spec, [1.0], [grad])
        moved = np.linalg.norm(found["conv"]["kernel"] - start["conv"]["kernel"])
        np.testing.assert_allclose(moved, 1e-3 * np.linalg.norm(start["conv"]["kernel"]), rtol=1e-3)
        np.testing.assert_allclose(found["bn"]["bias"], start["bn"]["bias"] - grad["bn"]["bias"], rtol=1e-4, atol=1e-6)


def test_lars_trains_a_kernel_that_starts_at_zero():
    """A trust ratio of 0 would keep it there for ever."""
    params = {"kernel": jnp.zeros((2, 2))}
    optimizer = make_optimizer(LARS, optax.constant_schedule(1.0))
    updates, _ = optimizer.update({"kernel": jnp.ones((2, 2))}, optimizer.init(params), params)
    assert (np.asarray(updates["kernel"]) < 0).all()


def test_only_kernels_are_kernels():
    assert is_kernel(tree(0)) == {
        "linear": {"kernel": True, "bias": False},
        "conv": {"kernel": True},
        "bn": {"scale": False, "bias": False},
    }


@pytest.mark.parametrize(
    ("field", "value"), [("name", "adam"), ("lr", 0.0), ("lr", float("nan")), ("warmup_epochs", -1.0)]
)
def test_a_bad_spec_is_refused_by_the_field_s_name(field, value):
    good = {name: getattr(SGD, name) for name in SGD.__dataclass_fields__}
    with pytest.raises(UserError, match=f"optimizer.{field}={value!r}"):
        OptimizerSpec(**good | {field: value})
