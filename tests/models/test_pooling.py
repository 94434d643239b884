"""The pools of a layer's map: against windows by hand, at 224 px those of OpenSelfSup, and at other sizes."""

import jax.numpy as jnp
import numpy as np
import pytest

from univip_jax.common.errors import UserError
from univip_jax.models.pooling import POOLINGS

# Of OpenSelfSup's multi-head protocol: side of the map at 224 px, channels of a ResNet-50, kernel, stride, padding.
OPENSELFSUP = [
    ("conv1", 112, 64, 10, 10, 4),
    ("res2", 56, 256, 16, 8, 0),
    ("res3", 28, 512, 13, 5, 0),
    ("res4", 14, 1024, 8, 3, 0),
    ("res5", 7, 2048, 6, 1, 0),
]


def pooled_by_hand(x: np.ndarray, kernel: int, stride: int, padding: int) -> np.ndarray:
    """PyTorch's AvgPool2d: zeros around the map count."""
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    starts = range(0, x.shape[1] - kernel + 1, stride)
    rows = [[x[:, y : y + kernel, left : left + kernel].mean((1, 2)) for left in starts] for y in starts]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


@pytest.mark.parametrize(("layer", "side", "channels", "kernel", "stride", "padding"), OPENSELFSUP)
def test_pools_at_224_px_are_openselfsups(layer, side, channels, kernel, stride, padding):
    x = np.random.default_rng(0).normal(1, 1, (2, side, side, 3)).astype(np.float32)
    found = POOLINGS[layer]({layer: jnp.asarray(x)})
    np.testing.assert_allclose(found, pooled_by_hand(x, kernel, stride, padding), atol=1e-5)
    assert found[0, ..., 0].size * channels in (8192, 9216)


@pytest.mark.parametrize(
    ("layer", "side", "kernel", "stride", "padding"),
    [
        ("conv1", 64, 13, 5, 2),  # 128 px: 68 = 13 + 11 x 5
        ("res2", 32, 12, 4, 0),
        ("res3", 16, 10, 2, 0),
        ("res4", 8, 6, 1, 0),
        ("res4", 3, 1, 1, 0),
        ("res3", 4, 1, 1, 0),
    ],
)
def test_pools_at_other_sizes_have_as_many_windows_and_reach_both_ends(layer, side, kernel, stride, padding):
    x = np.random.default_rng(1).normal(size=(2, side, side, 3)).astype(np.float32)
    found = POOLINGS[layer]({layer: jnp.asarray(x)})
    assert found.shape[1] == {"conv1": 12, "res2": 6, "res3": 4, "res4": 3}[layer]
    assert kernel + (found.shape[1] - 1) * stride == side + 2 * padding
    np.testing.assert_allclose(found, pooled_by_hand(x, kernel, stride, padding), atol=1e-5)


def test_gap_is_the_mean_of_res5():
    x = np.random.default_rng(2).normal(size=(2, 7, 7, 3)).astype(np.float32)
    np.testing.assert_allclose(POOLINGS["gap"]({"res5": jnp.asarray(x)}), x.mean((1, 2)), atol=1e-6)


def test_pools_name_a_map_that_is_too_small():
    with pytest.raises(UserError, match=r"conv1 is 8 x 8, its pool needs 12 x 12; .*leave conv1 out of --config"):
        POOLINGS["conv1"]({"conv1": jnp.zeros((1, 8, 8, 3))})
