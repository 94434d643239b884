"""A step of fine-tuning on four devices against PyTorch's SGD and batch norm."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from univip_jax.augment import normalize_pixels
from univip_jax.evaluate.finetune import SemiSpec, finetune_step, init_classifier
from univip_jax.sharding import by_batch, make_mesh, replicated

SIDE, FEATURES, CLASSES = 2, 5, 7
SPEC = SemiSpec(
    seed=0,
    labels=10,
    lr=(0.1,),
    head_multiplier=(1.0,),
    held_out=0.2,
    batch_size=8,
    num_epochs=20,
    milestones=(12, 16),
    decay=0.2,
    momentum=0.9,
    weight_decay=0.05,
)


class Small(nn.Module):
    """Stands for a backbone: linear, batch norm, ReLU on the flat pixels."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(FEATURES, name="linear")(x.reshape(len(x), -1))
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="bn")(x))


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    shape = (8, SIDE, SIDE, 3)
    return [(jnp.array(rng.integers(0, 256, shape, np.uint8)), rng.integers(0, CLASSES, 8)) for _ in range(3)]


def torch_steps(state, batches, rates):
    """Losses and parameters by PyTorch: two groups of parameters, momentum and weight decay for both."""
    backbone, head = state.params["backbone"], state.params["head"]
    linear, norm, last = (
        torch.nn.Linear(12, FEATURES),
        torch.nn.BatchNorm1d(FEATURES),
        torch.nn.Linear(FEATURES, CLASSES),
    )
    with torch.no_grad():
        for layer, values in ((linear, backbone["linear"]), (last, head)):
            layer.weight.copy_(torch.tensor(np.asarray(values["kernel"]).T))
            layer.bias.copy_(torch.tensor(np.asarray(values["bias"])))
    groups = [{"params": [*linear.parameters(), *norm.parameters()]}, {"params": last.parameters()}]
    sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.05)
    losses = []
    for (images, labels), rate in zip(batches, rates, strict=True):
        for group, value in zip(sgd.param_groups, rate, strict=True):
            group["lr"] = value
        x = torch.tensor(np.asarray(normalize_pixels(images)).reshape(8, -1))
        loss = torch.nn.functional.cross_entropy(last(torch.relu(norm(linear(x)))), torch.tensor(labels))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    return losses, linear, norm, last


@pytest.fixture(scope="module")
def step():
    """The jitted step on four devices, and the state before any."""
    net, everywhere, split = Small(), replicated(make_mesh()), by_batch(make_mesh())
    variables = net.init(jax.random.key(1), jnp.zeros((1, SIDE, SIDE, 3)), train=False)
    state = jax.device_put(init_classifier(variables, FEATURES, CLASSES, SPEC), everywhere)
    shardings = {"in_shardings": (everywhere, split, split, everywhere), "out_shardings": everywhere}
    return jax.jit(lambda *arguments: finetune_step(*arguments, backbone=net, spec=SPEC), **shardings), state


def test_finetune_step_three_times_is_pytorchs(step, batches):
    """The batch is split over four devices: two photos each would have other batch statistics than the eight."""
    (step_fn, state), rates = step, [(0.1, 1.0), (0.1, 1.0), (0.02, 2.0)]
    losses, linear, norm, last = torch_steps(state, batches, rates)
    found = []
    for (images, labels), rate in zip(batches, rates, strict=True):
        state, loss = step_fn(state, images, labels, dict(zip(("backbone", "head"), rate, strict=True)))
        found.append(loss)
    assert step_fn._cache_size() == 1  # rates are arguments
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    backbone, head = state.params["backbone"], state.params["head"]
    for expected, values in ((linear, backbone["linear"]), (last, head)):
        np.testing.assert_allclose(values["kernel"].T, expected.weight.detach(), atol=1e-5)
        np.testing.assert_allclose(values["bias"], expected.bias.detach(), atol=1e-5)
    np.testing.assert_allclose(backbone["bn"]["scale"], norm.weight.detach(), atol=1e-5)
    np.testing.assert_allclose(state.batch_stats["bn"]["mean"], norm.running_mean, atol=1e-5)


def test_finetune_step_shows_a_loss_that_is_not_finite(step, batches):
    step_fn, state = step
    head = {**state.params["head"], "kernel": state.params["head"]["kernel"].at[0, 0].set(jnp.inf)}
    _, loss = step_fn(state.replace(params={**state.params, "head": head}), *batches[0], {"backbone": 0.1, "head": 0.1})
    assert not np.isfinite(loss)
