"""Values of a PyTorch ResNet that a fresh network does not have."""

import torch
from torch import nn

from benchmarks.step.torch_networks import Block


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
