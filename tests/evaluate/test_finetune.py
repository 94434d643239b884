"""Fine-tuning: where it starts, the score by hand, and the protocol's numbers; tests/export has its step."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from configs import semi as config_of
from univip_jax.evaluate.finetune import SemiSpec, count, init_classifier
from univip_jax.evaluate.task import spec_of


def test_init_classifier_draws_the_head_and_keeps_the_backbone():
    variables = {"params": {"w": jnp.arange(3.0)}, "batch_stats": {"mean": jnp.ones(3)}}
    state = init_classifier(variables, 2000, 50, spec_of(SemiSpec, config_of.get_config()))
    kernel = np.asarray(state.params["head"]["kernel"])
    assert kernel.shape == (2000, 50) and not state.params["head"]["bias"].any()
    np.testing.assert_allclose([kernel.mean(), kernel.std()], [0, 0.01], atol=2e-4)
    assert state.params["backbone"] is variables["params"] and state.batch_stats is variables["batch_stats"]


class Given(nn.Module):
    """Stands for a backbone whose features are the first row of pixels, its first channel, denormalised."""

    def __call__(self, x, train):
        return x[:, 0, :, 0] * 0.229 * 255 + 0.485 * 255


@pytest.mark.parametrize(("classes", "expected"), [(7, [2, 4]), (4, [2, 4])])
def test_count_by_hand(classes, expected):
    """Logits are the class's pixel, so that class 0 is first; -1 fills up."""
    images = jnp.zeros((6, 1, classes, 3), jnp.uint8).at[:, 0, :, 0].set(jnp.arange(classes, dtype=jnp.uint8)[::-1])
    labels = jnp.array([0, min(4, classes - 1), 5 if classes > 5 else -1, -1, 0, 1])
    head = {"kernel": jnp.eye(classes), "bias": jnp.zeros(classes)}
    found = count({"backbone": {}, "head": head}, {}, images, labels, backbone=Given())
    assert found.tolist() == expected
    broken = {"kernel": jnp.eye(classes).at[0, 0].set(jnp.nan), "bias": jnp.zeros(classes)}
    found = count({"backbone": {}, "head": broken}, {}, images, labels, backbone=Given())
    assert found.tolist() == [0, 0]


@pytest.mark.parametrize(("labels", "weight_decay"), [(1, 5e-4), (10, 1e-4)])
def test_semi_spec_has_the_numbers_of_the_protocol(labels, weight_decay):
    """`semi_orl`: batch 256, 20 epochs, x0.2 at 12 and 16, three rates by three multipliers."""
    config = config_of.get_config(f"labels={labels}")
    made = spec_of(SemiSpec, config)
    assert (made.batch_size, made.num_epochs, made.momentum, made.weight_decay) == (256, 20, 0.9, weight_decay)
    factors = [made.rate_factor(epoch) for epoch in (0, 11, 12, 15, 16, 19)]
    np.testing.assert_allclose(factors, [1, 1, 0.2, 0.2, 0.04, 0.04])
    assert set(made.points) == {(lr, head) for lr in (0.001, 0.01, 0.1) for head in (1, 10, 100)}


def test_semi_config_refuses_another_share_of_labels():
    with pytest.raises(ValueError, match=r"'labels=5' is unknown; choose labels=1 or labels=10"):
        config_of.get_config("labels=5")
