"""A small ResNet-18 with values that a fresh network does not have."""

import jax
import numpy as np

from univip_jax.models.resnet import ResNet
from univip_jax.weights.names import shapes_of

SMALL = ResNet("resnet18", 0.125, "imagenet")


def draw(shapes: dict, seed: int) -> dict:
    """Random values for a tree of shapes: those of norms about 1 and 0."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        low, high = {"scale": (0.5, 1.2), "bias": (-0.3, 0.3), "mean": (-0.5, 0.5), "var": (0.5, 2.0)}.get(
            path[-1].key, (-0.1, 0.1)
        )
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(one, shapes)


def variables_of(net: ResNet, seed: int = 0) -> dict:
    """Random parameters and batch statistics."""
    return draw(shapes_of(net), seed)


def assert_equal(one: dict, other: dict) -> None:
    """Bit for bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)
