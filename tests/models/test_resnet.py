"""The backbone against TensorFlow operations with explicit padding, and torchvision's parameter counts."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from univip_jax.common.errors import UserError
from univip_jax.models.resnet import DEPTHS, ResNet, layer_maps, pool_2x2, stage_maps

WIDTH = 0.125
QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time; nothing here runs for long


def conv(x: tf.Tensor, kernel: np.ndarray, stride: int, padding: int) -> tf.Tensor:
    x = tf.pad(x, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    return tf.nn.conv2d(x, kernel, stride, "VALID")


class Reference:
    """A ResNet of TensorFlow operations on our parameters; collects the statistics that batch norm saw."""

    def __init__(self, variables: dict, train: bool):
        self.params, self.stats = variables["params"], variables["batch_stats"]
        self.train, self.seen = train, {}

    def norm(self, x: tf.Tensor, *path: str) -> tf.Tensor:
        params, stats = self.params, self.stats
        for name in path:
            params, stats = params[name], stats[name]
        mean, var = stats["mean"], stats["var"]
        if self.train:
            mean, var = tf.nn.moments(x, [0, 1, 2])
            self.seen["/".join(path)] = mean.numpy(), var.numpy()
        return (x - mean) / tf.sqrt(var + 1e-5) * params["scale"] + params["bias"]

    def block(self, x: tf.Tensor, name: str, stride: int) -> tf.Tensor:
        p = {key: value["kernel"] for key, value in self.params[name].items() if "conv" in key}
        if "conv3" in p:
            y = tf.nn.relu(self.norm(conv(x, p["conv1"], 1, 0), name, "bn1"))
            y = tf.nn.relu(self.norm(conv(y, p["conv2"], stride, 1), name, "bn2"))
            y = self.norm(conv(y, p["conv3"], 1, 0), name, "bn3")
        else:
            y = tf.nn.relu(self.norm(conv(x, p["conv1"], stride, 1), name, "bn1"))
            y = self.norm(conv(y, p["conv2"], 1, 1), name, "bn2")
        if "downsample_conv" in p:
            x = self.norm(conv(x, p["downsample_conv"], stride, 0), name, "downsample_bn")
        return tf.nn.relu(x + y)

    def __call__(self, images: np.ndarray, blocks: tuple[int, ...], stem: str = "imagenet") -> np.ndarray:
        kernel = self.params["conv1"]["kernel"]
        if stem == "imagenet":
            x = self.conv1 = tf.nn.relu(self.norm(conv(images, kernel, 2, 3), "bn1"))
            x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-np.inf)
            x = tf.nn.max_pool2d(x, 3, 2, "VALID")
        else:
            x = self.conv1 = tf.nn.relu(self.norm(conv(images, kernel, 2, 1), "bn1"))
        self.stages = []
        for stage, count in enumerate(blocks):
            for index in range(count):
                x = self.block(x, f"layer{stage + 1}_{index}", 2 if stage > 0 and index == 0 else 1)
            self.stages.append(x.numpy())
        return tf.reduce_mean(x, [1, 2]).numpy()


@cache
def random_variables(variant: str, stem: str = "imagenet") -> dict:
    """He kernels, and scales, biases and statistics that a fresh network does not have."""
    net = ResNet(variant, WIDTH, stem)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return (rng.normal(size=leaf.shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        low, high = {"scale": (0.5, 1.2), "bias": (-0.3, 0.3), "mean": (-0.5, 0.5), "var": (0.5, 2.0)}[name]
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def photos(batch: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(batch, height, width, 3)).astype(np.float32)


def parameter_count(variant: str) -> int:
    net = ResNet(variant)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("resnet18", 11_176_512),
        ("resnet34", 21_284_672),
        ("resnet50", 23_508_032),
        ("resnet101", 42_500_160),
        ("resnet152", 58_143_808),
    ],
)
def test_parameter_count_is_torchvisions_without_its_classifier(variant, count):
    assert parameter_count(variant) == count


@pytest.mark.parametrize("variant", DEPTHS)
def test_features_of_every_depth(variant):
    """Eight times narrower: 512 / 8 channels at the end, four times that of bottlenecks; any size of photo."""
    net = ResNet(variant, WIDTH)
    images = jax.ShapeDtypeStruct((2, 33, 47, 3), jnp.float32)
    found, variables = jax.eval_shape(lambda x: net.init_with_output(jax.random.key(0), x, train=False), images)
    deep = variant not in ("resnet10", "resnet18", "resnet34")
    assert found.shape == (2, 256 if deep else 64) and found.dtype == jnp.float32
    blocks = sum(name.startswith("layer") for name in variables["params"])
    convolutions = blocks * (3 if deep else 2)
    assert convolutions + 2 == int(variant.removeprefix("resnet"))  # with the stem and the classifier


@pytest.mark.parametrize(("variant", "blocks"), [("resnet18", (2, 2, 2, 2)), ("resnet50", (3, 4, 6, 3))])
@pytest.mark.parametrize("size", [(64, 64), (57, 75)])
def test_forward_is_that_of_tensorflow_with_pytorchs_padding(variant, blocks, size):
    variables, images = random_variables(variant), photos(2, *size)
    net = ResNet(variant, WIDTH)

    @partial(jax.jit, compiler_options=QUICK)
    def forward(variables, x):
        return net.apply(variables, x, train=False), layer_maps(net, variables, x), stage_maps(net, variables, x)

    found, layers, maps = jax.device_get(forward(variables, images))
    reference = Reference(variables, train=False)
    expected = reference(images, blocks)
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert sorted(layers) == ["conv1", "res2", "res3", "res4", "res5"]
    ours, theirs = [*layers.values(), *maps], [reference.conv1.numpy(), *reference.stages, *reference.stages]
    for one, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def trained() -> tuple[np.ndarray, dict]:
    """Features and new statistics of a ResNet-10 with the small stem, in train mode."""
    net = ResNet("resnet10", WIDTH, "small")
    forward = jax.jit(
        lambda variables, x: net.apply(variables, x, train=True, mutable=["batch_stats"]), compiler_options=QUICK
    )
    return jax.device_get(forward(random_variables("resnet10", "small"), photos(6, 30, 37)))


def test_training_normalises_by_the_batch(trained):
    reference = Reference(random_variables("resnet10", "small"), train=True)
    expected = reference(photos(6, 30, 37), (1, 1, 1, 1), "small")
    np.testing.assert_allclose(trained[0], expected, atol=1e-4 * np.abs(expected).max())


def test_running_statistics_take_a_tenth_of_the_batchs(trained):
    """0.9 * old + 0.1 * (mean, biased variance), at every norm of the network."""
    variables = random_variables("resnet10", "small")
    reference = Reference(variables, train=True)
    reference(photos(6, 30, 37), (1, 1, 1, 1), "small")
    assert len(reference.seen) == 1 + 4 * 2 + 3
    for path, (mean, var) in reference.seen.items():
        old, new = variables["batch_stats"], trained[1]["batch_stats"]
        for name in path.split("/"):
            old, new = old[name], new[name]
        np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, atol=1e-5, err_msg=path)
        np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * var, rtol=1e-4, err_msg=path)


def test_bfloat16_computes_in_bfloat16_and_gives_and_keeps_float32(trained):
    net = ResNet("resnet10", WIDTH, "small", dtype=jnp.bfloat16)
    variables = random_variables("resnet10", "small")
    forward = jax.jit(
        lambda variables, x: net.apply(variables, x, train=True, mutable=["batch_stats"]), compiler_options=QUICK
    )
    found, updates = jax.device_get(forward(variables, photos(6, 30, 37)))
    assert found.dtype == np.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {np.dtype(np.float32)}
    assert 1e-4 < np.abs(found - trained[0]).max() < 0.1 * np.abs(trained[0]).max()
    initial = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(("variant", "last"), [("resnet10", "bn2"), ("resnet50", "bn3")])
@pytest.mark.parametrize("zero", [False, True])
def test_zero_init_residual_zeroes_the_last_scale_of_each_block_only(variant, last, zero):
    """The other arrays are not computed: XLA drops them."""
    net = ResNet(variant, WIDTH, zero_init_residual=zero)

    def scales():
        params = net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)["params"]
        blocks = {name: layer for name, layer in params.items() if name.startswith("layer")}
        return {
            (name, norm): leaves["scale"]
            for name, block in blocks.items()
            for norm, leaves in block.items()
            if "bn" in norm
        }

    found = jax.jit(scales)()
    assert sum(norm == last for _, norm in found) == sum(DEPTHS[variant][0])
    for (name, norm), scale in found.items():
        expected = 0.0 if zero and norm == last else 1.0
        np.testing.assert_array_equal(scale, np.full(scale.shape, expected), err_msg=f"{name}/{norm}")


@pytest.mark.parametrize(("init", "fan"), [("fan_in", 128 * 9), ("fan_out", 256 * 9)])
def test_kernels_start_by_he_s_rule(init, fan):
    """Deviation sqrt(2 / fan): of the inputs (OpenSelfSup) or the outputs (PyTorch's ResNet) of a 3x3, 128 to 256."""
    net = ResNet("resnet10", 0.5, "small", fan=init)

    def kernel():
        return net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)["params"]["layer4_0"]["conv1"]

    found = np.asarray(jax.jit(kernel)()["kernel"])
    assert found.shape == (3, 3, 128, 256)
    np.testing.assert_allclose(found.std(), np.sqrt(2 / fan), rtol=0.02)
    np.testing.assert_allclose(found.mean(), 0.0, atol=1e-3)


@pytest.mark.parametrize("size", [(7, 7), (2, 2), (4, 3)])
def test_pooling_to_2x2_is_the_mean_of_each_window(size):
    res5 = np.random.default_rng(0).standard_normal((3, *size, 5)).astype(np.float32)
    height, width = size[0] - 1, size[1] - 1
    windows = [res5[:, y : y + height, x : x + width].mean((1, 2)) for y in (0, 1) for x in (0, 1)]
    np.testing.assert_allclose(pool_2x2(jnp.asarray(res5)), np.concatenate(windows, axis=1), atol=1e-6)


def test_pooling_to_2x2_needs_2x2():
    with pytest.raises(UserError, match="image_size is too small: res5 is 1 x 4"):
        pool_2x2(jnp.zeros((1, 1, 4, 8)))
