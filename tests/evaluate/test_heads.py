"""Linear heads: their schedules, their step and their score by hand, and against scikit-learn."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from configs import linear
from tests.small import small_config
from univip_jax.common.errors import UserError
from univip_jax.evaluate.heads import (
    Heads,
    HeadSpec,
    ProbeSpec,
    features_fn,
    init_heads,
    make_count,
    make_schedule,
    make_step,
    select,
)
from univip_jax.evaluate.task import spec_of
from univip_jax.weights.encoder import open_encoder


def make_spec(protocol: str, **changes) -> ProbeSpec:
    config = linear.get_config(f"protocol={protocol}")
    return replace(spec_of(ProbeSpec, config), **changes)


def as_they_are(**sizes: int):
    """Stands for a network: the first numbers of the images are the features of each pooling."""
    return lambda variables, images, key: {pooling: images[:, :size] for pooling, size in sizes.items()}


def start(spec: ProbeSpec, num_classes: int, **sizes: int) -> Heads:
    return init_heads(spec, {pooling: (size,) for pooling, size in sizes.items()}, num_classes)


@pytest.mark.parametrize(
    ("protocol", "batch_size", "epochs", "expected"),
    [
        ("linear_orl", 256, [0, 7.99, 8.01, 16.01, 24.01], [0.01, 0.01, 1e-3, 1e-4, 1e-5]),
        ("linear_orl", 512, [0, 27], [0.02, 2e-5]),
        ("linear_moco", 256, [0, 30, 59.99, 60.01, 79.99, 80.01, 99.9], [30, 30, 30, 3, 3, 0.3, 0.3]),
        ("linear_byol", 1024, [0, 20, 40, 60, 80], [1.6, 1.365685, 0.8, 0.234315, 0]),
    ],
)
def test_make_schedule_of_each_protocol(protocol, batch_size, epochs, expected):
    """The first rate of the grid, with 5004 steps per epoch; a cosine is at (1 + cos(pi / 4)) / 2 after a quarter."""
    spec = make_spec(protocol, batch_size=batch_size)
    schedule = make_schedule(spec, steps_per_epoch=5004)
    found = [spec.lr[0] * float(schedule(round(epoch * 5004))) for epoch in epochs]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_probe_spec_has_the_numbers_of_each_protocol():
    orl, byol = make_spec("linear_orl"), make_spec("linear_byol")
    assert orl.points[0] == HeadSpec("res5", 0.01, 1e-4)
    assert [point.pooling for point in orl.points[1:]] == ["conv1", "res2", "res3", "res4", "gap"]
    assert (orl.batch_norm, orl.nesterov, orl.momentum, orl.num_epochs) == (True, True, 0.9, 28)
    assert (orl.color_jitter, orl.lighting) == (0.4, 0.1)
    assert byol.points == [HeadSpec("gap", lr, 0.0) for lr in (0.4, 0.3, 0.2, 0.1, 0.05)]
    assert (byol.nesterov, byol.batch_size, byol.num_epochs) == (True, 1024, 80)
    moco = make_spec("linear_moco")
    assert moco.points == [HeadSpec("gap", 30.0, 0.0)]
    assert (moco.nesterov, moco.momentum, moco.num_epochs, moco.color_jitter) == (False, 0.9, 100, 0.0)


@pytest.mark.parametrize("argument", ["", "linear_orl", "protocol=linear"])
def test_linear_config_refuses_an_unknown_protocol(argument):
    with pytest.raises(ValueError, match=r"choose protocol=linear_orl\|linear_moco"):
        linear.get_config(argument)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": ("2x2",)}, "pooling='2x2' is unknown; choose conv1 or res2 or res3 or res4 or res5 or gap"),
        ({"lr": (0.1, 0.1)}, "must be one or several different values"),
        ({"schedule": "linear"}, "schedule='linear' is unknown"),
        ({"num_epochs": 0}, "num_epochs=0 must be at least 1"),
    ],
)
def test_probe_spec_names_a_wrong_field(changes, message):
    with pytest.raises(UserError, match=message):
        make_spec("linear_moco", **changes)


def softmax_gradient(x, labels, kernel, bias):
    """Mean cross-entropy and its gradients, in NumPy."""
    exponentials = np.exp(x @ kernel + bias)
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    error = (probabilities - np.eye(kernel.shape[1])[labels]) / len(x)
    return -np.log(probabilities[np.arange(len(x)), labels]).mean(), x.T @ error, error.sum(0)


@pytest.mark.parametrize("nesterov", [False, True])
def test_make_step_equals_numpy_sgd_for_three_steps(nesterov):
    """PyTorch's formulas: g + wd w, v = m v + g, w - lr (g + m v) or w - lr v; the rate halves after two steps."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(5, 6)).astype(np.float32), np.array([0, 1, 2, 2, 1])
    spec = make_spec("linear_moco", lr=(0.5,), weight_decay=(0.1,), nesterov=nesterov)
    heads = start(spec, 3, gap=6)
    step_fn = make_step(spec, lambda step: jnp.array([1.0, 1.0, 0.5])[step], as_they_are(gap=6))
    w = [np.asarray(heads.weights["gap"][name][0], np.float64) for name in ("kernel", "bias")]
    v = [np.zeros_like(one) for one in w]
    for step, lr in enumerate([0.5, 0.5, 0.25]):
        heads, losses = step_fn(heads, step, None, x, labels)
        loss, *gradients = softmax_gradient(x.astype(np.float64), labels, *w)
        np.testing.assert_allclose(losses, [loss], rtol=1e-5)
        gradients = [g + 0.1 * one for g, one in zip(gradients, w, strict=True)]
        v = [0.9 * old + g for old, g in zip(v, gradients, strict=True)]
        moves = [g + 0.9 * one for g, one in zip(gradients, v, strict=True)] if nesterov else v
        w = [one - lr * move for one, move in zip(w, moves, strict=True)]
    for name, expected in zip(("kernel", "bias"), w, strict=True):
        np.testing.assert_allclose(heads.weights["gap"][name], expected[None], atol=1e-5)


def trained(spec: ProbeSpec, sizes: dict[str, int], x, labels, steps: int) -> Heads:
    heads = start(spec, int(labels.max()) + 1, **sizes)
    step_fn = make_step(spec, make_schedule(spec, steps), as_they_are(**sizes))
    for step in range(steps):
        heads, _ = step_fn(heads, step, None, x, labels)
    return jax.device_get(heads)


def test_make_step_trains_each_head_as_if_alone():
    """Two poolings, not in the order of the alphabet, two rates and two decays; with the batch norm of each pooling."""
    rng = np.random.default_rng(1)
    x, labels = (rng.normal(size=(8, 6)) * 3 + 1).astype(np.float32), rng.integers(0, 3, 8)
    sizes = {"res5": 2, "gap": 6}
    spec = make_spec("linear_orl", pooling=("res5", "gap"), lr=(3.0, 30.0), weight_decay=(0.0, 0.1), num_epochs=1)
    grid = trained(spec, sizes, x, labels, steps=3)
    count = make_count(spec, as_they_are(**sizes))(grid, None, x, labels)
    assert len({one.tobytes() for stack in grid.weights.values() for one in stack["kernel"]}) == len(spec.points) == 8
    for point, right in list(zip(spec.points, count, strict=True))[1::5]:  # both poolings, rates and decays
        alone_spec = replace(spec, pooling=(point.pooling,), lr=(point.lr,), weight_decay=(point.weight_decay,))
        size = {point.pooling: sizes[point.pooling]}
        alone = trained(alone_spec, size, x, labels, steps=3)
        chosen = Heads(*({point.pooling: part[point.pooling]} for part in select(grid, spec, point)))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), chosen, alone)
        np.testing.assert_array_equal(make_count(alone_spec, as_they_are(**size))(alone, None, x, labels)[0], right)


def test_batch_norm_has_running_statistics_and_no_affine_part():
    """Training normalises by the batch, scores by 0.9 of what was and 0.1 of the batch (as PyTorch's momentum 0.1)."""
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(16, 2)).astype(np.float32) * [1, 40] + [5, 0], np.arange(16) % 2
    x = x.astype(np.float32)
    spec = make_spec("linear_orl", pooling=("gap",), lr=(0.0,), batch_size=256)
    heads = start(spec, 2, gap=2)
    kernel = np.asarray(heads.weights["gap"]["kernel"][0], np.float64)
    after, losses = make_step(spec, make_schedule(spec, 1), as_they_are(gap=2))(heads, 0, None, x, labels)
    normalised = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    np.testing.assert_allclose(losses[0], softmax_gradient(normalised, labels, kernel, np.zeros(2))[0], rtol=1e-5)
    np.testing.assert_allclose(after.statistics["gap"]["mean"], 0.1 * x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(after.statistics["gap"]["var"], 0.9 + 0.1 * x.var(0), rtol=1e-4)
    running = (x - 0.1 * x.mean(0)) / np.sqrt(0.9 + 0.1 * x.var(0) + 1e-5)
    expected = ((running @ kernel).argmax(1) == labels).sum()
    assert make_count(spec, as_they_are(gap=2))(after, None, x, labels).tolist() == [[expected, 16]]


def test_batch_norm_of_a_map_is_over_its_channels():
    """Cells of means 1, 0, 0, 0: 0.25 is subtracted from each. ORL norms the map, then flattens it."""
    maps = np.zeros((6, 2, 2, 3), np.float32)
    maps[:, 0, 0] = np.random.default_rng(3).permuted([0.0, 0.5, 1.0, 1.0, 1.5, 2.0])[:, None] * np.ones(3)
    spec = make_spec("linear_orl", pooling=("res5",), lr=(0.0,), batch_size=256)
    heads = init_heads(spec, {"res5": (2, 2, 3)}, num_classes=2)
    kernel, labels = np.asarray(heads.weights["res5"]["kernel"][0], np.float64), np.arange(6) % 2
    assert kernel.shape == (12, 2)
    whole = lambda variables, images, key: {"res5": images}  # noqa: E731
    after, losses = make_step(spec, make_schedule(spec, 1), whole)(heads, 0, None, maps, labels)
    np.testing.assert_allclose(after.statistics["res5"]["mean"], [0.1 * 0.25] * 3, rtol=1e-6)
    variance = 0.25 * (0 + 0.25 + 1 + 1 + 2.25 + 4) / 6 - 0.25**2  # the mean of squares less the squared mean
    normalised = ((maps.astype(np.float64) - 0.25) / np.sqrt(variance + 1e-5)).reshape(6, 12)
    np.testing.assert_allclose(losses[0], softmax_gradient(normalised, labels, kernel, np.zeros(2))[0], rtol=1e-5)
    running = ((maps - 0.1 * 0.25) / np.sqrt(0.9 + 0.1 * variance + 1e-5)).reshape(6, 12)
    right = ((running @ kernel).argmax(1) == labels).sum()
    assert make_count(spec, whole)(after, None, maps, labels).tolist() == [[right, 6]]


def blobs(count: int, spread: float, seed: int):
    """Three classes around three points of the plane, among eight features."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    x = rng.normal(size=(count, 8)) * spread
    x[:, :2] += np.array([[0, 2], [2, 0], [-2, -1]])[labels]
    return x.astype(np.float32), labels


@pytest.mark.parametrize(("spread", "least", "most"), [(0.3, 99, 100), (2.0, 50, 80)])
def test_trained_head_agrees_with_scikit_learn(spread, least, most):
    """On separable and on overlapping classes, within a point on 2000 others."""
    (x, labels), (test, answers) = blobs(400, spread, 0), blobs(2000, spread, 1)
    spec = make_spec("linear_byol", lr=(0.3,), batch_size=256, num_epochs=1)
    heads = trained(spec, {"gap": 8}, x, labels, steps=400)
    right = make_count(spec, as_they_are(gap=8))(heads, None, test, answers)
    expected = 100 * LogisticRegression(C=np.inf, max_iter=1000).fit(x, labels).score(test, answers)
    assert least <= expected <= most
    np.testing.assert_allclose(100 * right[0, 0] / 2000, expected, atol=1)


def test_make_step_leaves_the_backbone_alone():
    """Bit for bit, batch statistics included; the heads do move."""
    config = linear.get_config("protocol=linear_orl")
    config.pretrained, config.image_size, config.model = "random", 32, small_config("").model
    encoder = open_encoder(config)
    before = jax.tree.map(np.array, encoder.variables)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    spec = make_spec("linear_orl", lr=(1.0,), batch_size=256)
    features_of = features_fn(encoder, spec)
    shapes = {name: x.shape[1:] for name, x in jax.eval_shape(features_of, encoder.variables, images, None).items()}
    before_step = jax.device_get(init_heads(spec, shapes, num_classes=2))
    step_fn = make_step(spec, make_schedule(spec, 1), features_of)
    heads, _ = step_fn(before_step, 0, encoder.variables, images, np.array([0, 1, 0, 1]))
    jax.tree.map(np.testing.assert_array_equal, encoder.variables, before)
    for pooling, stack in jax.device_get(heads.weights).items():
        assert (stack["kernel"] != before_step.weights[pooling]["kernel"]).mean() > 0.9
