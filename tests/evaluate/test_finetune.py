"""A step against PyTorch's SGD and batch norm on four devices, the score by hand, and the protocol's numbers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from configs import semi as config_of
from univip_jax.augment import normalize_pixels
from univip_jax.evaluate.finetune import Rates, Recipe, count_right, finetune_step, init_classifier
from univip_jax.evaluate.semi import make_grid, make_recipe
from univip_jax.sharding import by_batch, make_mesh, replicated

SIDE, FEATURES, CLASSES = 2, 5, 7


class Small(nn.Module):
    """Stands for a backbone: linear, batch norm, ReLU on the flat pixels."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(FEATURES, name="linear")(x.reshape(len(x), -1))
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="bn")(x))


def recipe(**changes) -> Recipe:
    values = {"seed": 0, "image_size": SIDE, "batch_size": 8, "num_epochs": 20, "milestones": (12, 16), "decay": 0.2}
    return Recipe(**{**values, "momentum": 0.9, "weight_decay": 0.05, **changes})


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
    state = jax.device_put(init_classifier(variables, FEATURES, CLASSES, recipe()), everywhere)
    shardings = {"in_shardings": (everywhere, split, split, everywhere), "out_shardings": everywhere}
    return jax.jit(lambda *arguments: finetune_step(*arguments, backbone=net, recipe=recipe()), **shardings), state


def test_three_steps_are_pytorch_s(step, batches):
    """The batch is split over four devices: two photos each would have other batch statistics than the eight."""
    (step_fn, state), rates = step, [(0.1, 1.0), (0.1, 1.0), (0.02, 2.0)]
    losses, linear, norm, last = torch_steps(state, batches, rates)
    found = []
    for (images, labels), rate in zip(batches, rates, strict=True):
        state, loss = step_fn(state, images, labels, Rates(*rate))
        found.append(loss)
    assert step_fn._cache_size() == 1  # rates are arguments
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    backbone, head = state.params["backbone"], state.params["head"]
    for expected, values in ((linear, backbone["linear"]), (last, head)):
        np.testing.assert_allclose(values["kernel"].T, expected.weight.detach(), atol=1e-5)
        np.testing.assert_allclose(values["bias"], expected.bias.detach(), atol=1e-5)
    np.testing.assert_allclose(backbone["bn"]["scale"], norm.weight.detach(), atol=1e-5)
    np.testing.assert_allclose(state.batch_stats["bn"]["mean"], norm.running_mean, atol=1e-5)


def test_a_loss_that_is_not_finite_shows(step, batches):
    step_fn, state = step
    head = {**state.params["head"], "kernel": state.params["head"]["kernel"].at[0, 0].set(jnp.inf)}
    _, loss = step_fn(state.replace(params={**state.params, "head": head}), *batches[0], Rates(0.1, 0.1))
    assert not np.isfinite(loss)


def test_the_head_starts_as_orl_s_and_the_backbone_as_it_was():
    variables = {"params": {"w": jnp.arange(3.0)}, "batch_stats": {"mean": jnp.ones(3)}}
    state = init_classifier(variables, 2000, 50, recipe())
    kernel = np.asarray(state.params["head"]["kernel"])
    assert kernel.shape == (2000, 50) and not state.params["head"]["bias"].any()
    np.testing.assert_allclose([kernel.mean(), kernel.std()], [0, 0.01], atol=2e-4)
    assert state.params["backbone"] is variables["params"] and state.batch_stats is variables["batch_stats"]


class Given(nn.Module):
    """Stands for a backbone whose features are the first row of pixels, its first channel, denormalised."""

    def __call__(self, x, train):
        return x[:, 0, :, 0] * 0.229 * 255 + 0.485 * 255


@pytest.mark.parametrize(("classes", "expected"), [(7, [2, 4]), (4, [2, 4])])
def test_right_answers_are_counted(classes, expected):
    """Logits are the class's pixel, so that class 0 is first; -1 fills up."""
    images = jnp.zeros((6, 1, classes, 3), jnp.uint8).at[:, 0, :, 0].set(jnp.arange(classes)[::-1])
    labels = np.array([0, min(4, classes - 1), 5 if classes > 5 else -1, -1, 0, 1])
    head = {"kernel": jnp.eye(classes), "bias": jnp.zeros(classes)}
    found = count_right({"backbone": {}, "head": head}, {}, images, labels, backbone=Given())
    assert found.tolist() == expected
    broken = {"kernel": jnp.eye(classes).at[0, 0].set(jnp.nan), "bias": jnp.zeros(classes)}
    found = count_right({"backbone": {}, "head": broken}, {}, images, labels, backbone=Given())
    assert found.tolist() == [0, 0]


@pytest.mark.parametrize(("labels", "weight_decay"), [(1, 5e-4), (10, 1e-4)])
def test_the_protocol_s_numbers(labels, weight_decay):
    """METHOD, `semi_orl`: batch 256, 20 epochs, x0.2 at 12 and 16, three rates by three multipliers."""
    config = config_of.get_config(f"labels={labels}")
    made = make_recipe(config, 224)
    assert (made.batch_size, made.num_epochs, made.momentum, made.weight_decay) == (256, 20, 0.9, weight_decay)
    factors = [made.rate_factor(epoch) for epoch in (0, 11, 12, 15, 16, 19)]
    np.testing.assert_allclose(factors, [1, 1, 0.2, 0.2, 0.04, 0.04])
    assert set(make_grid(config)) == {(lr, head) for lr in (0.001, 0.01, 0.1) for head in (1, 10, 100)}


def test_an_unknown_share_of_labels_is_refused():
    with pytest.raises(ValueError, match=r"'labels=5' is unknown; choose labels=1 or labels=10"):
        config_of.get_config("labels=5")
