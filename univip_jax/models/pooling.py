"""Maps of a network's layers pooled to features, as ORL's linear protocol has it (MultiPooling of OpenSelfSup)."""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from univip_jax.common.errors import UserError
from univip_jax.models.resnet import pool_2x2
from univip_jax.types import at_least_float32

Maps = dict[str, Float[Array, "N _ _ _"]]  # by layer


class _Windows(NamedTuple):
    """An average pool of `number` x `number` windows over a map of `side` px, which the layer has at 224 px."""

    number: int
    stride: int
    padding: int
    side: int


# Of a ResNet-50: 9216 (12 x 12 x 64), 9216, 8192 and 9216 features.
_WINDOWS = {
    "conv1": _Windows(12, 10, 4, 112),
    "res2": _Windows(6, 8, 0, 56),
    "res3": _Windows(4, 5, 0, 28),
    "res4": _Windows(3, 3, 0, 14),
}


def _pool(maps: Maps, layer: str) -> Float[Array, "N k k c"]:
    """The protocol's windows at 224 px; at other sizes as many of them, with stride and padding in proportion.

    Raises UserError where the map has fewer pixels than windows.
    """
    (number, stride, padding, side), now = _WINDOWS[layer], maps[layer].shape[1]
    if now < number:
        raise UserError(
            f"image_size is too small: {layer} is {now} x {now}, its pool needs {number} x {number}; raise "
            f"--config.image_size, or leave {layer} out of --config.pooling"
        )
    stride, padding = max(1, now * stride // side), now * padding // side
    window = now + 2 * padding - (number - 1) * stride
    return nn.avg_pool(at_least_float32(maps[layer]), (window,) * 2, (stride,) * 2, ((padding, padding),) * 2)


def _pool_res5(maps: Maps) -> Float[Array, "N 2 2 c"]:
    return pool_2x2(maps["res5"]).reshape(-1, 2, 2, maps["res5"].shape[-1])


def _global_mean(maps: Maps) -> Float[Array, "N c"]:
    return at_least_float32(maps["res5"]).mean((1, 2))


# From the maps of `layer_maps` to features, channels last.
POOLINGS = {
    **{layer: partial(_pool, layer=layer) for layer in _WINDOWS},
    "res5": _pool_res5,
    "gap": _global_mean,
}
