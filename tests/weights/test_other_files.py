"""Files that people take for weights are named by their content, in one line."""

import gzip
import re
import tarfile

import numpy as np
import pytest

from univip_jax.common.errors import UserError
from univip_jax.weights.files import read_backbone

OTHER_FILES = {
    b"": r"is empty: fetch it again; weights are read from safetensors",
    b"junk": r"is no file of weights: it begins with b'junk'",
    b"\x89HDF\r\n\x1a\n" + bytes(600): "is an HDF5 file, as Keras writes",
    b"version https://git-lfs.github.com/spec/v1": "is a pointer of git-lfs, not the file: run git lfs pull",
    b"\n<!DOCTYPE html><html>": "is a web page, not the file: download it again",
    b'{"metadata": {}, "weight_map": {}}': "is JSON, no weights: name the file beside it",
    gzip.compress(b"weights"): "is compressed by gzip: unpack it first",
    b"\x08\x07\x12\x07pytorch\x1a\x03": "is an ONNX file",
    b"PK\x03\x04" + bytes(100): "is cut off or damaged: its zip has no end; fetch it again",
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
