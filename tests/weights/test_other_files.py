"""Files that people take for weights are named by their content, in one line; ours say their stem."""

import gzip
import re
import tarfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.weights.random_weights import assert_equal, variables_of
from univip_jax.common.errors import UserError
from univip_jax.models.resnet import ResNet
from univip_jax.weights.files import read_backbone
from univip_jax.weights.names import to_flat

OTHER_FILES = {
    b"": r"is empty: fetch it again; weights are read from safetensors",
    b"junk": r"is no file of weights: it begins with b'junk'",
    b"\x89HDF\r\n\x1a\n" + bytes(600): "is an HDF5 file, as Keras writes",
    b"version https://git-lfs.github.com/spec/v1": "is a pointer of git-lfs, not the file: run git lfs pull",
    b"\n<!DOCTYPE html><html>": "is a web page, not the file: download it again",
    b'{"metadata": {}, "weight_map": {}}': "is JSON, no weights: name the file beside it",
    gzip.compress(b"weights"): "is compressed by gzip: unpack it first",
    b"\x08\x07\x12\x07pytorch\x1a\x03": "is an ONNX file",
    b"PK\x03\x04" + bytes(100): "is cut off or damaged: its zip has no end (File is not a zip file); fetch it again",
    b"\x93NUMPY\x01\x00": "is an array of NumPy",
}


@pytest.mark.parametrize("content", OTHER_FILES, ids=OTHER_FILES.values())
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
def test_files_that_are_no_weights_are_named(content, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{path} {OTHER_FILES[content]}")) as error:
        read_backbone(path)
    assert "\n" not in str(error.value)


def test_archives_that_are_no_weights_are_named(tmp_path):
    np.savez(tmp_path / "net.npz", a=np.zeros(3))
    with pytest.raises(UserError, match=r"net\.npz is arrays of NumPy \(\.npz\) of a\.npy, and no PyTorch file"):
        read_backbone(tmp_path / "net.npz")
    with tarfile.open(tmp_path / "net.tar", "w") as archive:
        archive.add(tmp_path / "net.npz", "net.npz")
    with pytest.raises(UserError, match=r"net\.tar is a tar archive: unpack it first"):
        read_backbone(tmp_path / "net.tar")


@pytest.mark.parametrize("stem", ["small", "cifar", None])
def test_a_file_of_ours_says_its_stem(stem, tmp_path):
    """Files of before the CIFAR stem say nothing where they are small."""
    net = ResNet("resnet10", 0.125, stem or "small")
    save_file(to_flat(variables_of(net)), tmp_path / "ours.bin", {"stem": stem} if stem else {})
    found, back, *_ = read_backbone(tmp_path / "ours.bin")
    assert found == net
    assert_equal(back, variables_of(net))
    with pytest.raises(UserError, match=r"ours\.bin holds our own names, .*: leave out --prefix and --stem"):
        read_backbone(tmp_path / "ours.bin", stem="cifar")
