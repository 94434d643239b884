"""One device and four give one result; the step is traced once; a batch is split as the mesh says."""

import jax
import numpy as np
import pytest

from tests.small import BATCH, small_config
from univip_jax.common.errors import UserError
from univip_jax.plan import make_plan
from univip_jax.sharding import by_batch, local_rows, make_mesh, put_batch, replicated, step_options
from univip_jax.train_step import make_train_step
from univip_jax.types import Batch


def random_batch(step):
    rng = np.random.default_rng(step)
    return Batch(
        rng.integers(0, 256, (BATCH, 2, 16, 16, 3), dtype=np.uint8),
        rng.integers(0, 256, (BATCH, 2, 8, 8, 3), dtype=np.uint8),
    )


def test_four_devices_equal_one_in_float64_and_the_step_is_traced_once():
    config = small_config("unused")
    config.model.dtype = "float64"
    config.model.width = 0.0625
    config.views.num_instances = 2
    plan = make_plan(config, 2 * BATCH)
    results = []
    with jax.enable_x64(True):
        start = jax.tree.map(
            lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else np.asarray(x),
            jax.device_get(jax.jit(plan.init_state)()),
        )
        for count in (1, 4):
            mesh = make_mesh(jax.devices()[:count])
            step_fn = make_train_step(plan, mesh)
            state = jax.device_put(start, replicated(mesh))
            for step in range(3):
                state, metrics = step_fn(state, put_batch(mesh, random_batch(step)))
            assert step_fn._cache_size() == 1
            results.append(jax.device_get((state, metrics)))
    for (path, one), four in zip(
        jax.tree_util.tree_leaves_with_path(results[0]), jax.tree.leaves(results[1]), strict=True
    ):
        np.testing.assert_allclose(four, one, rtol=1e-10, atol=1e-10, err_msg=jax.tree_util.keystr(path))
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(results[0][0]), strict=True)]
    assert max(moved) > 1e-4


def test_rows_cover_the_batch_and_arrive_in_order():
    mesh = make_mesh()
    rows = local_rows(mesh, BATCH)
    np.testing.assert_array_equal(np.sort(rows), np.arange(BATCH))
    array = put_batch(mesh, rows)
    assert array.sharding == by_batch(mesh)
    np.testing.assert_array_equal(array, np.arange(BATCH))


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(
        UserError, match=r"batch_size=6 is not divisible by the 4 devices; the nearest that is: --config\.batch_size=8"
    ):
        local_rows(make_mesh(), 6)


def test_step_options_are_those_that_xla_takes_and_leaves_what_xla_flags_names(monkeypatch):
    jax.devices()  # XLA has read the flags of all tests before they change
    monkeypatch.delenv("XLA_FLAGS")
    options = step_options("gpu")
    assert options["xla_gpu_exclude_nondeterministic_ops"] is True and len(options) == 2
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2  # XLA refuses a name or value that it lacks
    with pytest.raises(Exception, match="No such compile option"):
        jax.jit(lambda x: x + 2, compiler_options={f"{name}s": value for name, value in options.items()})(1)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_exclude_nondeterministic_ops=false")
    assert step_options("gpu").keys() == options.keys() - {"xla_gpu_exclude_nondeterministic_ops"}
    assert step_options("tpu") == {}
