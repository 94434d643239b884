"""The networks of Mask R-CNN with a feature pyramid (He et al. 2017, Lin et al. 2017), as Detectron2 builds them.

Each part is a method, because what lies between them (proposals, sampling, pooling) is no network. Norms are our batch
norm, of the global batch: Detectron2's SyncBN.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from univip_jax.models.norm import BatchNorm
from univip_jax.models.resnet import ResNet
from univip_jax.types import at_least_float32

NUM_RATIOS = 3  # anchors a cell
BOX_HEADS = ("4conv1fc", "2fc")
_XAVIER = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")  # Caffe2's, PyTorch's kaiming_uniform(a=1)
_MSRA = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _normal(std: float) -> nn.initializers.Initializer:
    return nn.initializers.normal(std)


class Pyramid(nn.Module):
    """Feature pyramid: maps res2 to res5 to P2 to P6, each of `channels`."""

    channels: int
    norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Float[Array, "N _h _w _c"]], train: bool) -> list[Float[Array, "N _h _w c"]]:
        """P6 is every second cell of P5."""

        def conv(name: str, side: int, x: Float[Array, "N h w c"]) -> Float[Array, "N h w d"]:
            layer = nn.Conv(
                self.channels, (side, side), padding=side // 2, use_bias=not self.norm, dtype=self.dtype,
                kernel_init=_XAVIER, name=name,
            )  # fmt: skip
            return BatchNorm(train, self.dtype, name=f"{name}_norm")(layer(x)) if self.norm else layer(x)

        levels: list[Float[Array, "N _h _w c"]] = []
        above = None
        for number, features in reversed(list(enumerate(maps, start=2))):
            x = conv(f"lateral{number}", 1, features)
            if above is not None:
                twice = above.repeat(2, axis=1).repeat(2, axis=2)
                x += twice[:, : x.shape[1], : x.shape[2]]
            above = x
            levels.insert(0, conv(f"output{number}", 3, x))
        return [*levels, levels[-1][:, ::2, ::2]]


class RegionProposals(nn.Module):
    """The head that is slid over each level: an objectness logit and four deltas for each anchor."""

    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, level: Float[Array, "N h w c"]) -> tuple[Float[Array, "N a"], Float[Array, "N a 4"]]:
        """Logits and deltas, float32, in the order of the anchors: row, column, ratio."""
        conv = partial(nn.Conv, dtype=self.dtype, kernel_init=_normal(0.01))
        x = nn.relu(conv(self.channels, (3, 3), padding=1, name="conv")(level))
        logits, deltas = conv(NUM_RATIOS, (1, 1), name="logits")(x), conv(4 * NUM_RATIOS, (1, 1), name="deltas")(x)
        return at_least_float32(logits).reshape(len(x), -1), at_least_float32(deltas).reshape(len(x), -1, 4)


class BoxHead(nn.Module):
    """Pooled regions to logits of K classes and the background (last), and four deltas for each class."""

    num_classes: int
    channels: int
    width: int  # of the fully connected layers
    kind: str
    dtype: Any

    @nn.compact
    def __call__(
        self, regions: Float[Array, "n p p c"], train: bool
    ) -> tuple[Float[Array, "n classes"], Float[Array, "n K 4"]]:
        """Logits and deltas, float32."""
        x = regions
        convs, layers = (4, 1) if self.kind == "4conv1fc" else (0, 2)
        for number in range(1, convs + 1):
            x = _conv_norm(x, self.channels, f"conv{number}", train, self.dtype)
        x = x.reshape(len(x), -1)
        for number in range(1, layers + 1):
            x = nn.relu(nn.Dense(self.width, dtype=self.dtype, kernel_init=_XAVIER, name=f"fc{number}")(x))
        logits = nn.Dense(self.num_classes + 1, dtype=self.dtype, kernel_init=_normal(0.01), name="logits")(x)
        deltas = nn.Dense(4 * self.num_classes, dtype=self.dtype, kernel_init=_normal(0.001), name="deltas")(x)
        return at_least_float32(logits), at_least_float32(deltas).reshape(len(x), -1, 4)


class MaskHead(nn.Module):
    """Pooled regions to a logit for each class and pixel of a mask of twice their side."""

    num_classes: int
    channels: int
    norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, regions: Float[Array, "n p p c"], train: bool) -> Float[Array, "n 2*p 2*p K"]:
        """Logits, float32."""
        x = regions
        for number in range(1, 5):
            x = _conv_norm(x, self.channels, f"conv{number}", train, self.dtype, norm=self.norm)
        x = Doubling(self.channels, self.dtype, name="deconv")(x)
        logits = nn.Conv(
            self.num_classes, (1, 1), dtype=self.dtype, kernel_init=_normal(0.001), name="logits"
        )(nn.relu(x))  # fmt: skip
        return at_least_float32(logits)


class Doubling(nn.Module):
    """Transposed convolution 2x2 of stride 2: without overlap, a product for each of the four pixels of a cell."""

    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n 2*h 2*w d"]:
        """Pixel (2h + i, 2w + j) is cell (h, w) times kernel (i, j)."""
        number, height, width, channels = x.shape
        shape = 2, 2, channels, self.channels
        kernel, bias = self.param("kernel", _MSRA, shape), self.param("bias", nn.initializers.zeros, self.channels)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        pixels = jnp.einsum("nhwc,ijcd->nhiwjd", x, kernel)
        return pixels.reshape(number, 2 * height, 2 * width, self.channels) + bias


def _conv_norm(
    x: Float[Array, "n h w c"], channels: int, name: str, train: bool, dtype: Any, norm: bool = True
) -> Float[Array, "n h w d"]:
    """3x3 convolution, norm, ReLU; called inside a compact method, whose module owns the layers."""
    x = nn.Conv(channels, (3, 3), padding=1, use_bias=not norm, dtype=dtype, kernel_init=_MSRA, name=name)(x)
    return BatchNorm(train, dtype, relu=True, name=f"{name}_norm")(x) if norm else nn.relu(x)


class MaskRCNN(nn.Module):
    """A detector on any of our ResNets.

    Attributes:
      backbone: the ResNet.
      num_classes: K, without the background.
      channels: of the pyramid and the convolutions of the heads.
      head_width: of the fully connected layers.
      box_head: `4conv1fc`, or `2fc`, which has no norm.
      norm: batch norm in the pyramid; in the heads where `box_head` is `4conv1fc`.
      masks: False leaves out the mask head (Faster R-CNN).
    """

    backbone: ResNet
    num_classes: int
    channels: int = 256
    head_width: int = 1024
    box_head: str = "4conv1fc"
    norm: bool = True
    masks: bool = True
    dtype: Any = jnp.float32

    def setup(self) -> None:
        heads = self.num_classes, self.channels
        self.pyramid = Pyramid(self.channels, self.norm, self.dtype)
        self.proposals = RegionProposals(self.channels, self.dtype)
        self.box = BoxHead(*heads, self.head_width, self.box_head, self.dtype)
        if self.masks:
            self.mask = MaskHead(*heads, self.box_head == "4conv1fc", self.dtype)

    def levels(self, images: Float[Array, "N H W 3"], train: bool) -> list[Float[Array, "N _h _w c"]]:
        """P2 to P6 of normalised images."""
        return self.pyramid(self.backbone.stages(images, train), train)

    def propose(
        self, levels: Sequence[Float[Array, "N _h _w c"]]
    ) -> tuple[list[Float[Array, "N _a"]], list[Float[Array, "N _a 4"]]]:
        """Objectness logits and deltas of each level's anchors."""
        logits, deltas = zip(*map(self.proposals, levels), strict=True)
        return list(logits), list(deltas)

    def classify(
        self, regions: Float[Array, "n p p c"], train: bool
    ) -> tuple[Float[Array, "n classes"], Float[Array, "n K 4"]]:
        """Class logits and deltas of regions."""
        return self.box(regions, train)

    def segment(self, regions: Float[Array, "n p p c"], train: bool) -> Float[Array, "n q q K"]:
        """Mask logits of regions."""
        return self.mask(regions, train)

    def __call__(self, images: Float[Array, "N H W 3"], train: bool) -> None:
        """Runs every part once, which is how the variables are made; computes nothing of use."""
        levels = self.levels(images, train)
        self.propose(levels)
        self.classify(jnp.zeros((1, 7, 7, self.channels), self.dtype), train)
        if self.masks:
            self.segment(jnp.zeros((1, 14, 14, self.channels), self.dtype), train)


def init(net: MaskRCNN, key: jax.Array) -> Any:
    """`params` and `batch_stats` of a detector."""
    return net.init(key, jnp.zeros((1, 64, 64, 3)), train=False)
