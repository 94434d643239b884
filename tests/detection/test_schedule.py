"""Detectron2's rates and updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from univip_jax.common.errors import UserError
from univip_jax.detection.schedule import SCHEDULES, ScheduleSpec, decays, learning_rate, make_optimizer
from univip_jax.models.mask_rcnn import MaskRCNN, init
from univip_jax.models.resnet import ResNet

STEPS, *DECAY_AT = SCHEDULES["1x"]
ONE_X = ScheduleSpec(STEPS, tuple(DECAY_AT))


@pytest.mark.parametrize(
    ("batch_size", "step", "rate"),
    [
        *((16, 0, 2e-5), (16, 500, 0.02 * (0.001 * 0.5 + 0.5)), (16, 1000, 0.02), (16, 59_999, 0.02)),
        *((16, 60_000, 0.002), (16, 79_999, 0.002), (16, 80_000, 0.0002), (16, 89_999, 0.0002)),
        *((8, 0, 1e-5), (8, 1000, 0.01 * (0.001 * 0.5 + 0.5)), (8, 119_999, 0.01), (8, 120_000, 0.001)),
        *((64, 125, 0.08 * (0.001 * 0.5 + 0.5)), (64, 250, 0.08), (64, 15_000, 0.008), (64, 20_000, 0.0008)),
    ],
)
def test_rates(batch_size, step, rate):
    """By step of a batch: equal in photos, proportional to the batch."""
    np.testing.assert_allclose(learning_rate(ONE_X, batch_size)(jnp.array(step)), rate, rtol=1e-5)


def test_schedules_are_those_of_the_papers_tables():
    assert SCHEDULES["2x"] == (180_000, 120_000, 160_000) and SCHEDULES["6x"] == (540_000, 480_000, 520_000)
    assert (ONE_X.scaled(STEPS, 16), ONE_X.scaled(STEPS, 64), ONE_X.scaled(3, 1000)) == (90_000, 22_500, 1)


def test_updates_are_momentum_with_decay_of_weights_and_biases_alone():
    """Three steps of PyTorch's SGD by hand; the rate is the step's."""
    spec = ScheduleSpec(10, (2,), lr=0.1, warmup_steps=0, momentum=0.9, weight_decay=0.01)
    params = {"box": {"fc1": {"kernel": 2.0, "bias": 1.0}, "conv1_norm": {"scale": 3.0, "bias": -1.0}}}
    params = jax.tree.map(jnp.array, params)
    optimizer = make_optimizer(spec, learning_rate(spec, 16))
    opt_state = optimizer.init(params)
    expected = dict(enumerate([(2.0, 0.0, 0.01), (1.0, 0.0, 0.01), (3.0, 0.0, 0.0), (-1.0, 0.0, 0.0)]))
    for step in range(3):
        rate = 0.01 if step == 2 else 0.1
        for place, (value, velocity, decay) in expected.items():
            velocity = 0.9 * velocity + (0.5 * (step + 1) + decay * value)
            expected[place] = (value - rate * velocity, velocity, decay)
        gradient = jax.tree.map(lambda x, step=step: jnp.full_like(x, 0.5 * (step + 1)), params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
    dense, norm = params["box"]["fc1"], params["box"]["conv1_norm"]
    found = dense["kernel"], dense["bias"], norm["scale"], norm["bias"]
    np.testing.assert_allclose(found, [value for value, _, _ in expected.values()], rtol=1e-5)


def test_all_but_norms_decay():
    net = MaskRCNN(ResNet("resnet50", 0.0625), 2, channels=4, head_width=4)
    params = jax.eval_shape(lambda key: init(net, key), jax.random.key(0))["params"]
    for path, decayed in jax.tree_util.tree_leaves_with_path(decays(params)):
        module, leaf = path[-2].key, path[-1].key
        is_norm = module in ("bn1", "bn2", "bn3", "downsample_bn") or "norm" in module
        assert is_norm != decayed and (leaf != "kernel" or decayed) and (leaf != "scale" or not decayed)


def test_a_schedule_that_cannot_be_is_refused():
    for wrong in ({"steps": 10, "decay_at": (10,)}, {"steps": 10, "decay_at": (5,), "lr": 0.0}):
        with pytest.raises(UserError, match="schedule\\."):
            ScheduleSpec(**wrong)
