"""Batch norm's own gradient against autodiff of Flax's, in float64: alone, with ReLU, with a residual sum."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from univip_jax.models.norm import BatchNorm
from univip_jax.sharding import make_mesh


@pytest.fixture
def case():
    """x, shortcut, cotangent [8, 3, 3, 4], and variables."""
    rng = np.random.default_rng(0)
    params = {"scale": rng.normal(size=4), "bias": rng.normal(size=4)}
    stats = {"mean": rng.normal(size=4), "var": rng.uniform(1, 2, size=4)}
    return rng.normal(1.0, 2.0, (3, 8, 3, 3, 4)), params, stats


def flax(x, shortcut, params, stats, relu):
    norm = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5)
    out, new = norm.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
    out = out if shortcut is None else out + shortcut
    return nn.relu(out) if relu else out, new["batch_stats"]


def ours(x, shortcut, params, stats, relu):
    norm = BatchNorm(True, x.dtype, relu=relu)
    out, new = norm.apply({"params": params, "batch_stats": stats}, x, shortcut, mutable=["batch_stats"])
    return out, new["batch_stats"]


def split(x, shortcut, params, stats, relu):
    """`ours` on four devices, two images each."""
    batch, everywhere = PartitionSpec("data"), PartitionSpec()

    def part(x, shortcut, params, stats):
        return ours(x, shortcut, jax.lax.pcast(params, "data", to="varying"), stats, relu)

    specs = batch, batch, everywhere, everywhere
    sharded = jax.shard_map(part, mesh=make_mesh(), in_specs=specs, out_specs=(batch, everywhere))
    return sharded(x, shortcut, params, stats)


@pytest.mark.parametrize(("relu", "join"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("way", [ours, split])
def test_values_statistics_and_gradients_are_those_of_autodiff(case, way, relu, join):
    (x, shortcut, cotangent), params, stats = case

    def result(norm):
        def loss(x, shortcut, params):
            out, new = norm(x, shortcut if join else None, params, stats, relu)
            return (out * cotangent).sum(), (out, new)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(x, shortcut, params)

    with jax.enable_x64(True):
        found, expected = jax.device_get((result(way), result(flax)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), found, expected)


def test_bfloat16_is_normalised_in_float32_and_the_relu_s_mask_is_the_forward_s(case):
    """The gradient of the bias counts the pixels that the output let through."""
    (x, *_), params, stats = jax.tree.map(lambda leaf: leaf.astype(np.float32), case)
    x = jnp.asarray(x, jnp.bfloat16)

    def loss(params):
        out, new = ours(x, None, params, stats, True)
        return out.astype(jnp.float32).sum(), (out, new)

    grads, (out, new) = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert out.dtype == jnp.bfloat16 and new["mean"].dtype == grads["scale"].dtype == jnp.float32
    np.testing.assert_array_equal(grads["bias"], (np.asarray(out) > 0).sum((0, 1, 2)))
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(new["mean"], 0.9 * stats["mean"] + 0.1 * exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(new["var"], 0.9 * stats["var"] + 0.1 * exact.var((0, 1, 2)), rtol=1e-5)
