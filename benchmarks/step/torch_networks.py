"""UniVIP's networks in PyTorch: layers and padding of univip_jax/models, backbone with torchvision's names."""

import torch
from torch import nn

from univip_jax.models.resnet import DEPTHS
from univip_jax.models.univip import ModelSpec

_STEMS = {"imagenet": (7, 2, 3), "small": (3, 2, 1), "cifar": (3, 1, 1)}  # kernel, stride, padding


class Block(nn.Module):
    """Residual block: two 3x3 convolutions, or 1x1 - 3x3 - 1x1 with four times the channels at the end."""

    def __init__(self, inputs: int, channels: int, stride: int, bottleneck: bool):
        super().__init__()
        out = channels * (4 if bottleneck else 1)
        sizes = [(inputs, channels, 1, 1), (channels, channels, 3, stride), (channels, out, 1, 1)]
        if not bottleneck:
            sizes = [(inputs, channels, 3, stride), (channels, out, 3, 1)]
        self.count = len(sizes)
        for index, (i, o, kernel, s) in enumerate(sizes, start=1):
            self.add_module(f"conv{index}", nn.Conv2d(i, o, kernel, s, kernel // 2, bias=False))
            self.add_module(f"bn{index}", nn.BatchNorm2d(o))
        self.downsample = None
        if inputs != out or stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for index in range(1, self.count + 1):
            y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y))
            y = y.relu() if index < self.count else y
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class TorchResNet(nn.Module):
    """Normalised pixels [N, 3, H, W] to globally average-pooled features [N, F]."""

    def __init__(self, blocks: tuple[int, ...], bottleneck: bool, width: float = 1.0, stem: str = "imagenet"):
        super().__init__()
        base = inputs = int(64 * width)
        self.conv1 = nn.Conv2d(3, base, *_STEMS[stem], bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        for stage, count in enumerate(blocks):
            layer = []
            for index in range(count):
                layer.append(Block(inputs, base * 2**stage, 2 if stage and not index else 1, bottleneck))
                inputs = base * 2**stage * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        self.num_features = inputs

    def stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps after each stage [N, C, h, w]."""
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        return [x := getattr(self, f"layer{stage}")(x) for stage in (1, 2, 3, 4)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stages(x)[-1].mean((2, 3), dtype=torch.float32)


class MLP(nn.Module):
    """Linear - batch norm - ReLU - linear: projector and predictor."""

    def __init__(self, inputs: int, hidden: int, out: int):
        super().__init__()
        self.linear1 = nn.Linear(inputs, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.linear2 = nn.Linear(hidden, out, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear2(self.bn1(self.linear1(x)).relu())


class Encoder(nn.Module):
    """Backbone and projector; also the target network."""

    def __init__(self, backbone: TorchResNet, hidden: int, projection: int):
        super().__init__()
        self.backbone = backbone
        self.projector = MLP(backbone.num_features, hidden, projection)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projector(self.backbone(x))


class Online(nn.Module):
    """Encoder, predictor, and `f_linear` if K > 0 instances are merged."""

    def __init__(self, encoder: Encoder, hidden: int, projection: int, num_instances: int):
        super().__init__()
        self.encoder = encoder
        self.predictor = MLP(projection, hidden, projection)
        self.f_linear = nn.Linear(num_instances * projection, projection) if num_instances else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.predictor(self.encoder(x))


def make_online(spec: ModelSpec, num_instances: int) -> Online:
    """The online network of `spec`; without `f_linear` if `num_instances` is 0."""
    encoder = Encoder(TorchResNet(*DEPTHS[spec.backbone], spec.width, spec.stem), spec.hidden, spec.projection)
    return Online(encoder, spec.hidden, spec.projection, num_instances)
