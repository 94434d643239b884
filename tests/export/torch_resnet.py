"""A ResNet in PyTorch with torchvision's names, written for the tests: they load strictly what we export."""

import torch
from torch import nn


class Block(nn.Module):
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

    def forward(self, x):
        y = x
        for index in range(1, self.count + 1):
            y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y))
            y = y.relu() if index < self.count else y
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class TorchResNet(nn.Module):
    """`stages(pixels)`: maps after each stage [N, C, h, w]."""

    def __init__(self, blocks: tuple[int, ...], bottleneck: bool, width: float = 1.0):
        super().__init__()
        base = inputs = int(64 * width)
        self.conv1 = nn.Conv2d(3, base, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, count in enumerate(blocks):
            layer = []
            for index in range(count):
                layer.append(Block(inputs, base * 2**stage, 2 if stage and not index else 1, bottleneck))
                inputs = base * 2**stage * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))

    def stages(self, x):
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        return [x := getattr(self, f"layer{stage}")(x) for stage in (1, 2, 3, 4)]


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Norms and statistics that a fresh network does not have; in eval mode.

    The last norm of a block is small, so that 66 blocks add up to maps of the size that trained networks have.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.2),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                tensor.data.uniform_(low, high, generator=generator)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
    for block in net.modules():
        if isinstance(block, Block):
            getattr(block, f"bn{block.count}").weight.data.mul_(0.3)
    return net.eval()
