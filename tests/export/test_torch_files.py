"""PyTorch checkpoints as MoCo, ORL and OpenSelfSup write them; code in them is not run."""

import jax
import numpy as np
import pytest
import torch
from torch_resnet import randomise

from benchmarks.step.torch_networks import TorchResNet
from univip_jax import load_encoder
from univip_jax.common.errors import UserError
from univip_jax.models.resnet import pool_2x2
from univip_jax.weights.files import read_backbone
from univip_jax.weights.names import to_torch

NET = randomise(TorchResNet((2, 2, 2, 2), False, 0.125))
OTHER = randomise(TorchResNet((2, 2, 2, 2), False, 0.125), seed=1)


def under(prefix: str, net: TorchResNet) -> dict:
    return {prefix + name: value for name, value in net.state_dict().items()}


def head(prefix: str) -> dict:
    return {f"{prefix}0.weight": torch.zeros(16, 64), f"{prefix}0.bias": torch.zeros(16)}


@pytest.mark.parametrize(
    "contents",
    [
        NET.state_dict(),  # torchvision
        {**NET.state_dict(), "fc.weight": torch.zeros(1000, 64)},
        {  # MoCo v2: both networks, the classifier inside, the optimizer beside
            "epoch": 200,
            "arch": "resnet18",
            "state_dict": {
                **under("module.encoder_q.", NET), **head("module.encoder_q.fc."),
                **under("module.encoder_k.", OTHER), "module.queue": torch.zeros(64, 8),
            },
            "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.03}]},
        },
        {"state_dict": NET.state_dict(), "author": "OpenSelfSup"},  # ORL, DenseCL: the extracted backbone
        {"meta": {"epoch": 800}, "state_dict": {**under("backbone.", NET), **head("neck.")}},  # MMSelfSup
        {"state_dict": {**under("online_net.0.", NET), **under("target_net.0.", OTHER)}},  # OpenSelfSup's BYOL
    ],
)  # fmt: skip
def test_read_backbone_reads_the_online_backbone_of_a_checkpoint(contents, tmp_path):
    torch.save(contents, tmp_path / "checkpoint.pth")
    net, variables, _ = read_backbone(tmp_path / "checkpoint.pth")
    assert (net.variant, net.width) == ("resnet18", 0.125)
    for name, value in to_torch(variables).items():
        np.testing.assert_array_equal(value, NET.state_dict()[name].numpy(), err_msg=name)


def test_read_backbone_widens_half_precision(tmp_path):
    torch.save({name: value.bfloat16() for name, value in NET.state_dict().items()}, tmp_path / "half.pt")
    _, variables, _ = read_backbone(tmp_path / "half.pt")
    expected = NET.conv1.weight.detach().bfloat16().float().numpy()
    np.testing.assert_array_equal(to_torch(variables)["conv1.weight"], expected)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_load_encoder_runs_no_code_of_a_checkpoint(tmp_path):
    torch.save({"state_dict": NET.state_dict(), "extra": Malicious(tmp_path / "trace")}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"bad\.pth cannot be read as weights alone \(.*open.*holds code, which is"):
        load_encoder(tmp_path / "bad.pth")
    assert not (tmp_path / "trace").exists()


def test_load_encoder_names_a_damaged_checkpoint(tmp_path):
    torch.save(NET.state_dict(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"cut\.pth cannot be read as weights alone"):
        load_encoder(tmp_path / "cut.pth")


@pytest.mark.parametrize("contents", [[1, 2], {}, torch.zeros(3), {"a": {"b": 1}}])
def test_read_backbone_of_a_checkpoint_without_tensors_says_so(contents, tmp_path):
    torch.save(contents, tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"none\.pth holds no tensors by name; save the network's state_dict"):
        read_backbone(tmp_path / "none.pth")


@pytest.mark.parametrize("content", [b"", b"junk"])
def test_read_backbone_names_junk(content, tmp_path):
    (tmp_path / "junk.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"junk\.pth cannot be read as weights alone \(\w*[Ee]rror"):
        read_backbone(tmp_path / "junk.pth")


def test_pool_2x2_is_pytorchs_average_pool():
    res5 = np.random.default_rng(0).standard_normal((2, 7, 7, 2048)).astype(np.float32)
    pooled = torch.nn.functional.avg_pool2d(torch.from_numpy(res5).permute(0, 3, 1, 2), kernel_size=6, stride=1)
    expected = pooled.permute(0, 2, 3, 1).reshape(2, 8192)
    np.testing.assert_allclose(pool_2x2(jax.numpy.asarray(res5)), expected, atol=1e-5)
