"""Heads of linear_orl beside PyTorch modules: average pool, BatchNorm2d without affine part, linear layer, SGD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from configs import linear
from univip_jax.evaluate.heads import ProbeSpec, init_heads, make_count, make_step
from univip_jax.evaluate.task import spec_of
from univip_jax.models.pooling import POOLINGS

# Side of the map at 224 px, and the pool of OpenSelfSup's multi-head protocol.
LAYERS = {
    "res5": (7, torch.nn.AvgPool2d(kernel_size=6, stride=1)),
    "conv1": (112, torch.nn.AvgPool2d(kernel_size=10, stride=10, padding=4)),
    "res2": (56, torch.nn.AvgPool2d(kernel_size=16, stride=8)),
    "res3": (28, torch.nn.AvgPool2d(kernel_size=13, stride=5)),
    "res4": (14, torch.nn.AvgPool2d(kernel_size=8, stride=3)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_head_of_linear_orl_is_pytorchs_for_three_steps(layer):
    config = linear.get_config("protocol=linear_orl")
    config.pooling, config.lr = (layer,), (0.03,)
    spec, (side, pool) = spec_of(ProbeSpec, config), LAYERS[layer]
    rng = np.random.default_rng(0)
    maps, labels = rng.normal(2, 3, (6, side, side, 4)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2])
    shape = POOLINGS[layer]({layer: jnp.asarray(maps)}).shape[1:]
    heads = init_heads(spec, {layer: shape}, num_classes=3)
    norm, x = torch.nn.BatchNorm2d(4, momentum=0.1, affine=False), torch.from_numpy(maps.transpose(0, 3, 1, 2))
    fc = torch.nn.Linear(4 * shape[0] ** 2, 3)
    with torch.no_grad():
        kernel = np.array(heads.weights[layer]["kernel"][0]).reshape(*shape, 3)
        fc.weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1).reshape(3, -1)))
        fc.bias.zero_()
    sgd = torch.optim.SGD(fc.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4, nesterov=True)
    step_fn = make_step(spec, lambda step: 1.0, lambda _, images, key: {layer: POOLINGS[layer]({layer: images})})
    for step in range(3):
        heads, losses = step_fn(heads, step, None, maps, labels)
        loss = cross_entropy(fc(norm(pool(x)).flatten(1)), torch.from_numpy(labels))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        np.testing.assert_allclose(losses[0], loss.item(), rtol=1e-4, atol=1e-6)
    statistics = jax.device_get(heads.statistics[layer])
    np.testing.assert_allclose(statistics["mean"], norm.running_mean, rtol=1e-4)
    values = 6 * shape[0] ** 2  # PyTorch's running variance is of the sample, ours biased
    batch = (norm.running_var - 0.9**3) / (1 - 0.9**3) * (values - 1) / values
    np.testing.assert_allclose(statistics["var"], 0.9**3 + (1 - 0.9**3) * batch, rtol=1e-4)
    norm.running_var.copy_(torch.from_numpy(np.array(statistics["var"])))
    right = (fc(norm.eval()(pool(x)).flatten(1)).argmax(1) == torch.from_numpy(labels)).sum()
    count = make_count(spec, lambda _, images, key: {layer: POOLINGS[layer]({layer: images})})
    assert count(heads, None, maps, labels).tolist() == [[right, 6]]
