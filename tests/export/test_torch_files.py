"""PyTorch files: every form is read without PyTorch, objects beside the weights are inert, bombs are refused."""

import argparse
import collections
import datetime
import enum
import functools
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
from torch_resnet import randomise

from benchmarks.step.torch_networks import TorchResNet
from univip_jax import load_encoder
from univip_jax.common.errors import UserError
from univip_jax.models.resnet import pool_2x2
from univip_jax.weights.files import read_backbone
from univip_jax.weights.names import to_torch
from univip_jax.weights.torch_file import read_torch

NET = randomise(TorchResNet((2, 2, 2, 2), False, 0.125))


def assert_read(path) -> None:
    for name, value in to_torch(read_backbone(path).variables).items():
        np.testing.assert_array_equal(value, NET.state_dict()[name].numpy(), err_msg=name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("save", [torch.save, safetensors.torch.save_file])
def test_read_backbone_reads_other_precisions(dtype, save, tmp_path):
    state = {name: value.to(getattr(torch, dtype)) for name, value in NET.state_dict().items()}
    save(state, tmp_path / "other.pt")
    for name, value in to_torch(read_backbone(tmp_path / "other.pt").variables).items():
        np.testing.assert_array_equal(value, state[name].float().numpy(), err_msg=name)


@pytest.mark.parametrize("save", [torch.save, safetensors.torch.save_file])
def test_read_backbone_names_a_tensor_of_float8(save, tmp_path):
    state = NET.state_dict() | {"layer1.0.conv1.weight": NET.layer1[0].conv1.weight.detach().to(torch.float8_e4m3fn)}
    save(state, tmp_path / "eight")
    with pytest.raises(UserError, match=r"eight: layer1\.0\.conv1\.weight is of (?i:f8_e4m3|float8_e4m3fn).* float32"):
        read_backbone(tmp_path / "eight")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("is_zip", [True, False])
def test_every_layout_of_a_tensor_is_read(protocol, is_zip, tmp_path):
    """Strides, offsets into a shared storage and parameters, in each kind of file and pickle, against PyTorch."""
    shared = torch.randn(4, 8, 3, 3)
    contents = {
        "last": shared.to(memory_format=torch.channels_last), "turned": shared.mT, "part": shared[1:3, ::2],
        "expanded": torch.ones(1).expand(1), "scalar": torch.tensor(3.5), "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(shared[0]), "flags": torch.tensor([True, False]), "whole": torch.arange(3),
        "sub": torch.nn.Parameter(torch.ones(2), requires_grad=False), 7: [torch.ones(2, dtype=torch.int16)],
    }  # fmt: skip
    torch.save(contents, tmp_path / "f", pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    expected = {str(name): value for name, value in contents.items()} | {"7.0": contents[7][0]}
    del expected["7"]
    found = read_torch(tmp_path / "f")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == tuple(value.shape)
        np.testing.assert_array_equal(found[name].read(), value.detach().numpy(), err_msg=name, strict=True)


class Listed(list):
    """Like mmengine's and Lightning's containers: a subclass with attributes."""


class Kept(dict):
    """Like Lightning's AttributeDict."""


class Chosen(enum.Enum):
    ONE = 1


def listed() -> Listed:
    made = Listed([1, 2])
    made.window = 3
    return made


HARMLESS = {
    "Namespace": argparse.Namespace(lr=1, name="x"),
    "NumPy": {"scalar": np.float64(0.5), "array": np.arange(3), "dtype": np.dtype("f4"), "objects": np.array([None])},
    "Path": Path("/somewhere/else"),
    "list": listed(),
    "dict": Kept(lr=0.1, nested=Kept()),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "Counter, deque": [collections.Counter("aab"), collections.deque([1, 2], maxlen=3)],
    "partial": functools.partial(print, "never"),
    "enum": [Chosen.ONE, {Chosen.ONE: 1}],
    "datetime": datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC),
    "history": {"loss": [0.5] * 100_000, "pairs": [(step, 0.5) for step in range(150_000)]},
    "sets": [{1, 2}, frozenset({3}), slice(1, 2), range(3), 1j, Ellipsis, b"bytes", bytearray(b"x"), 2**80],
    "keys": {Path("a"): 1, torch.float32: 2, (1, "a"): 3, torch.device("cpu"): 4, None: 5},
    "classes and functions": [dict, len, argparse.Namespace, np.mean, Chosen],
    "torch": [torch.Size([1]), torch.float16, torch.device("cpu"), torch.Generator, torch.optim.SGD],
    "optimizer": torch.optim.SGD(NET.parameters(), lr=0.1),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", HARMLESS)
def test_objects_beside_the_weights_do_not_matter(name, is_zip, protocol, tmp_path):
    contents = {"first": HARMLESS[name], "state_dict": NET.state_dict(), "last": HARMLESS[name]}
    torch.save(contents, tmp_path / "f", pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    assert_read(tmp_path / "f")


class Runs:
    """Pickles to a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("is_zip", [True, False])
def test_nothing_of_a_checkpoint_is_run_or_imported(is_zip, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_module.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nclass Own: pass\n")
    import own_module

    trace = str(tmp_path / "trace")
    calls = [
        Runs(os.system, (f"touch {trace}",)), Runs(open, (trace, "w")), Runs(exec, (f"open({trace!r}, 'w')",)),
        Runs(subprocess.run, ([["touch", trace]],)), own_module.Own(),
    ]  # fmt: skip
    calls += [Runs(np.ndarray, ((2**40,),)), Runs(bytearray, (2**40,)), Runs(list, (range(2**40),))]  # memory
    contents = {"calls": calls, "state_dict": NET.state_dict()}
    torch.save(contents, tmp_path / "bad.pth", _use_new_zipfile_serialization=is_zip)
    (tmp_path / "imported").unlink()
    del sys.modules["own_module"]
    assert_read(tmp_path / "bad.pth")
    assert not (tmp_path / "trace").exists() and not (tmp_path / "imported").exists()
    assert "own_module" not in sys.modules


def test_pytorch_is_not_needed(tmp_path):
    torch.save(NET.state_dict(), tmp_path / "net.pth")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import univip_jax; print(univip_jax.load_encoder(sys.argv[1]).backbone.variant)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "net.pth")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.stdout == "resnet18\n", result.stderr


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_cut_or_changed_checkpoint_gives_the_values_or_one_line(is_zip, tmp_path):
    path = tmp_path / "f.pth"
    torch.save(
        {"a": torch.arange(6.0).reshape(2, 3).T, "b": [torch.ones(2)]}, path, _use_new_zipfile_serialization=is_zip
    )
    whole, refused = path.read_bytes(), 0
    for change in [*range(1, len(whole), 7), *(-n for n in range(1, len(whole), 7))]:
        changed = whole[:-change] if change > 0 else whole[:change] + bytes([whole[change] ^ 0x55]) + whole[change:][1:]
        path.write_bytes(changed)
        with pytest.raises(UserError):  # it never holds a ResNet
            read_backbone(path)
        try:
            arrays = [tensor.read() for tensor in read_torch(path).values()]
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert all(type(array) is np.ndarray for array in arrays)
    assert refused > len(whole) // 14


def pickled(*steps: bytes) -> bytes:
    return b"\x80\x02" + b"".join(steps) + b"."


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickled(b"}", b"r\xff\xff\xff\x7f"), "counts 2147483647 objects"),  # room for a memo of 16 GB
        (pickled(b"cos\nsystem\n0" * 20_000, b"N"), "10001 names"),  # a class each
        (pickled(b"}K\x01", b")" + b"\x85" * 200_000, b"s"), "has tuples 1001 deep"),  # their hash recurses
        (pickled(b"}", b"K\x01q\x00" + b"h\x00h\x00\x86q\x00" * 60, b"Ns"), "elements, more than files"),  # 2^60 hashes
        (
            pickled(b"}", b"K\x01q\x00" + b"(X\x06\x00\x00\x00moduleh\x00h\x00\x86NNNtQq\x00" * 60, b"Ns"),
            "elements, more",
        ),
        (
            pickled(b"}K\x01q\x00", b"ctorch._utils\n_rebuild_parameter\nh\x00h\x00\x86\x85Rq\x00" * 60, b"Ns"),
            "elements, more than files",
        ),
        (pickled(b"}q\x00X\x01\x00\x00\x00ah\x00s"), "holds no tensors"),  # a dict in itself
        (pickled(b"]q\x00", b"(" + b"h\x00" * 9 + b"e"), "holds no tensors"),  # a list of itself
        (pickled(b"]" * 1000, b"a" * 999), "holds no tensors"),
    ],
)
def test_a_pickle_that_wants_memory_or_stack_is_refused(content, said, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w") as archive:
        archive.writestr("archive/data.pkl", content)
    with pytest.raises(UserError, match=said):
        read_backbone(tmp_path / "bomb.pth")


def test_a_compressed_record_is_not_unpacked_without_bound(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"]0" * 10_000_000 + b"N.")
    with pytest.raises(UserError, match=r"record archive/data\.pkl is compressed beyond what weights can be"):
        read_backbone(tmp_path / "bomb.pth")


def test_load_encoder_names_a_damaged_checkpoint(tmp_path):
    torch.save(NET.state_dict(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-5000])
    with pytest.raises(
        UserError,
        match=r"cut\.pth is cut off or damaged: its zip has no end \(File is not a zip file\); fetch it again",
    ):
        load_encoder(tmp_path / "cut.pth")


@pytest.mark.parametrize("contents", [[1, 2], {}, torch.zeros(3), {"a": {"b": 1}}])
def test_read_backbone_of_a_checkpoint_without_tensors_says_so(contents, tmp_path):
    torch.save(contents, tmp_path / "none.pth")
    with pytest.raises(UserError, match=r"none\.pth holds no tensors by name; save the network's state_dict"):
        read_backbone(tmp_path / "none.pth")


def test_pool_2x2_is_pytorchs_average_pool():
    res5 = np.random.default_rng(0).standard_normal((2, 7, 7, 2048)).astype(np.float32)
    pooled = torch.nn.functional.avg_pool2d(torch.from_numpy(res5).permute(0, 3, 1, 2), kernel_size=6, stride=1)
    expected = pooled.permute(0, 2, 3, 1).reshape(2, 8192)
    np.testing.assert_allclose(pool_2x2(jax.numpy.asarray(res5)), expected, atol=1e-5)
