"""ResNet-18 to -200 (He et al. 2016), and a ResNet-10 for tests and demos, with PyTorch's padding.

Convolutions and pooling are padded symmetrically and the stride of a bottleneck sits in its 3x3, if not told otherwise;
XLA's "SAME" would pad stride-2 layers on one side only and cost exported weights about 4 points.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from univip_jax.common.errors import UserError
from univip_jax.models.max_pool import max_pool
from univip_jax.models.norm import BatchNorm
from univip_jax.types import at_least_float32

# blocks a stage, and whether the blocks are bottlenecks
DEPTHS = {
    "resnet10": ((1, 1, 1, 1), False),
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
    "resnet200": ((3, 24, 36, 3), True),
}
STEMS = ("imagenet", "small", "cifar")
INITS = ("fan_in", "fan_out")


def he_normal(fan: str) -> nn.initializers.Initializer:
    """N(0, 2 / fan) (He et al. 2015): of the outputs in PyTorch's ResNet, of the inputs in OpenSelfSup's."""
    return nn.initializers.variance_scaling(2.0, fan, "normal")


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or 1x1 - 3x3 - 1x1 with four times the channels at the end."""

    channels: int
    stride: int
    bottleneck: bool
    stride_in_1x1: bool
    zero_init_residual: bool
    fan: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool) -> Float[Array, "N h w c"]:
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=he_normal(self.fan))
        norm = partial(BatchNorm, train, self.dtype)
        last_scale = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        out = self.channels * (4 if self.bottleneck else 1)
        strides = (self.stride, self.stride)

        if self.bottleneck:
            first, second = (strides, (1, 1)) if self.stride_in_1x1 else ((1, 1), strides)
            y = norm(relu=True, name="bn1")(conv(self.channels, (1, 1), first, name="conv1")(x))
            y = conv(self.channels, (3, 3), second, padding=1, name="conv2")(y)
            y = norm(relu=True, name="bn2")(y)
            y = conv(out, (1, 1), name="conv3")(y)
        else:
            y = conv(self.channels, (3, 3), strides, padding=1, name="conv1")(x)
            y = norm(relu=True, name="bn1")(y)
            y = conv(out, (3, 3), padding=1, name="conv2")(y)

        if x.shape[-1] != out or self.stride != 1:
            x = norm(name="downsample_bn")(conv(out, (1, 1), strides, name="downsample_conv")(x))
        return norm(relu=True, scale_init=last_scale, name="bn3" if self.bottleneck else "bn2")(y, x)


class ResNet(nn.Module):
    """Backbone: images to globally average-pooled features.

    Attributes:
      variant: a key of `DEPTHS`.
      width: multiplies all channels; 1 gives 64, 128, 256, 512.
      stem: `imagenet` is 7x7 stride 2 and a max pool; `small` a 3x3 of stride 2 alone, for images below 100 px;
        `cifar` a 3x3 of stride 1 alone, which networks of other projects for 32 px have.
      zero_init_residual: start each block as the identity (BYOL's ImageNet recipe).
      fan: of He's initialisation, `fan_in` or `fan_out`.
      dtype: of the computation; parameters and statistics stay float32.
      stride_in_1x1: of bottlenecks, as in the first ResNets, which most detectors of Detectron2 have.
    """

    variant: str
    width: float = 1.0
    stem: str = "imagenet"
    zero_init_residual: bool = False
    fan: str = "fan_out"
    dtype: Any = jnp.float32
    stride_in_1x1: bool = False

    def __call__(self, images: Float[Array, "N H W 3"], train: bool) -> Float[Array, "N F"]:
        """Normalised images of any size (>= 1 px) to float32 features."""
        return at_least_float32(self.stages(images, train)[-1]).mean((1, 2))

    @nn.compact
    def stages(self, images: Float[Array, "N H W 3"], train: bool) -> list[Float[Array, "N _h _w _c"]]:
        """What leaves each of the four stages (res2 to res5), in the network's dtype."""
        blocks, bottleneck = DEPTHS[self.variant]
        base = int(64 * self.width)
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=he_normal(self.fan), name="conv1")
        x = images.astype(self.dtype)
        if self.stem == "imagenet":
            x = conv(base, (7, 7), (2, 2), padding=3)(x)
        else:
            x = conv(base, (3, 3), 1 if self.stem == "cifar" else 2, padding=1)(x)
        x = BatchNorm(train, self.dtype, relu=True, name="bn1")(x)
        if self.stem == "imagenet":
            x = max_pool(x)
        maps = []
        for stage, count in enumerate(blocks):
            for index in range(count):
                x = Block(
                    channels=base * 2**stage,
                    stride=2 if stage and not index else 1,
                    bottleneck=bottleneck,
                    stride_in_1x1=self.stride_in_1x1,
                    zero_init_residual=self.zero_init_residual,
                    fan=self.fan,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{index}",
                )(x, train)
            maps.append(x)
        return maps


def layer_maps(net: ResNet, variables: Any, images: Float[Array, "N H W 3"]) -> dict[str, Float[Array, "N h w c"]]:
    """What leaves conv1 (after its norm and ReLU) and the stages res2 to res5, by running statistics."""
    _, captured = net.apply(
        variables,
        images,
        train=False,
        capture_intermediates=lambda module, _: isinstance(module, Block) or module.path == ("bn1",),
        mutable=["intermediates"],
    )
    maps = {name: module["__call__"][0] for name, module in captured["intermediates"].items()}
    blocks, _ = DEPTHS[net.variant]
    stages = {f"res{stage + 1}": maps[f"layer{stage}_{count - 1}"] for stage, count in enumerate(blocks, start=1)}
    return {"conv1": maps["bn1"]} | stages


def stage_maps(net: ResNet, variables: Any, images: Float[Array, "N H W 3"]) -> list[Float[Array, "N _h _w _c"]]:
    """What leaves each of the four stages (res2 to res5), by running statistics; images as for `net`."""
    return list(layer_maps(net, variables, images).values())[1:]


def pool_2x2(res5: Float[Array, "N h w c"]) -> Float[Array, "N 4*c"]:
    """Averages of res5 over the four windows that leave out one row and one column; c is last in the flattened order.

    At 224 px, where res5 is 7 x 7, this is the average pool of kernel 6 and stride 1 of ORL's protocols: 8192 features
    of a ResNet-50. Raises UserError where the map has a side of 1.
    """
    _, height, width, _ = res5.shape
    if min(height, width) < 2:
        raise UserError(
            f"image_size is too small: res5 is {height} x {width}, the 2 x 2 pool needs 2 x 2; "
            "raise --config.image_size"
        )
    return nn.avg_pool(at_least_float32(res5), (height - 1, width - 1)).reshape(len(res5), -1)
