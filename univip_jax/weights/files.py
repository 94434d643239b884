"""Reads a backbone from a file of weights, ours or of another project, without running code from the file."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import UserError, shorten
from univip_jax.common.files import on_disk
from univip_jax.models.resnet import STEMS, ResNet
from univip_jax.weights.names import Tensor, Tensors, from_detectron2, from_flat, from_torch
from univip_jax.weights.networks import choose_network
from univip_jax.weights.pickle_file import read_pkl
from univip_jax.weights.torch_file import MAGIC, read_torch

_READ = "weights are read from safetensors, PyTorch's files and Detectron2's .pkl"
_OTHERS = {  # how files begin that people take for weights
    b"version https://git-lfs": "a pointer of git-lfs, not the file: run git lfs pull",
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x93NUMPY": "an array of NumPy",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"BZh": "compressed by bzip2: unpack it first",
    b"\xfd7zXZ": "compressed by xz: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a rar archive: unpack it first",
    b"<": "a web page, not the file: download it again",
    b"{": "JSON, no weights: name the file beside it that holds them",
    b"GGUF": "a GGUF file",
}
_SAFETENSORS_KINDS = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


class Backbone(NamedTuple):
    """A file's network and variables, the file's text metadata, and a line where it holds other networks too."""

    net: ResNet
    variables: dict
    metadata: dict[str, str]
    note: str = ""


def read_backbone(path: Path, prefix: str | None = None, stem: str | None = None) -> Backbone:
    """The backbone of a file: safetensors, also under our own names, a PyTorch file, or Detectron2's `.pkl`.

    The content decides, not the suffix. The first convolution shows where a ResNet is; where the file holds several,
    `prefix` is the beginning of its names. `stem` is `small` or `cifar` where that convolution is 3x3 and the metadata
    do not say which.

    Raises UserError where the file is missing or damaged, or holds no plain ResNet.
    """
    tensors, metadata = read_tensors(path)
    if not tensors:
        raise UserError(f"{path} holds no tensors by name; save the network's state_dict")
    if any(name.startswith(("params/", "batch_stats/")) for name in tensors):
        if metadata.get("stride_in_1x1") == "True":
            raise UserError(f"{path} has the stride of bottlenecks in the 1x1: it is read as a whole detector only")
        tensors = {name.replace("/backbone/", "/"): t for name, t in tensors.items() if "/backbone/" in name} or tensors
        if prefix is not None or stem:
            raise UserError(f"{path} holds our own names, which say all: leave out --prefix and --stem")
        return Backbone(*from_flat(tensors, str(path), small_stem_of(metadata)), metadata)
    network, note = choose_network(tensors, prefix, str(path))
    stem = _stem(network.state["conv1.weight"].shape[2], stem or metadata.get("stem"), path)
    return Backbone(*from_torch(network.state, str(path), stem), metadata, note)


def _stem(side: int, told: str | None, path: Path) -> str:
    """`small` or `cifar` for a 3x3 stem; UserError where nobody says which."""
    if side == 7 and told in STEMS[1:]:
        raise UserError(f"--stem={told}: {path} has a 7x7 stem, which is always of stride 2: leave --stem out")
    if side == 3 and told not in STEMS[1:]:
        raise UserError(
            f"{path} has a 3x3 stem, and no weight shows its stride: give python -m univip_jax.weights --stem=cifar "
            "(stride 1, as networks for CIFAR) or --stem=small (stride 2); both pad by 1 and have no max pool"
        )
    return told or STEMS[0]


def small_stem_of(metadata: dict[str, str]) -> str:
    """That of a 3x3 convolution in a file of ours, which says it since there are two; before, there was one."""
    told = metadata.get("stem")
    return told if told in STEMS[1:] else "small"


def number_of(metadata: dict[str, str], name: str, default: int, largest: int) -> int:
    """A positive whole number of a file's metadata; the default where they hold none up to the largest."""
    text = metadata.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 16 and 0 < int(text) <= largest else default


def image_size_of(metadata: dict[str, str], net: ResNet) -> int:
    """Side of the crops that it was trained on, px; without a sensible number 224, or 32 with a CIFAR stem."""
    return number_of(metadata, "image_size", 32 if net.stem == "cifar" else 224, 4096)


def read_tensors(path: Path, *, whole: bool = False) -> tuple[Tensors, dict[str, str]]:
    """Tensors by printable name, and text metadata; of a `.pkl` those of the backbone, under torchvision's names.

    A `whole` detector in a `.pkl` keeps Detectron2's names. A file in a bucket has a copy here for as long as there are
    its tensors. Raises UserError for what is no file of weights, by what it is.
    """
    if not path.is_file():
        what = "is a folder: name the file of weights in it" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}")
    tensors, metadata = _read_copy(path, whole) if is_bucket(path) else _read_by_content(path, whole)
    return {name if name.isprintable() else ascii(name)[1:-1]: tensor for name, tensor in tensors.items()}, metadata


def _read_copy(path: Path, whole: bool) -> tuple[Tensors, dict[str, str]]:
    held = on_disk(path)  # Python ends it when no tensor refers to it any more
    copy = held.__enter__()

    @contextmanager
    def named() -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise UserError(str(error).replace(str(copy), str(path))) from error

    def values(tensor: Tensor | np.ndarray, _: object) -> np.ndarray:
        with named():
            return tensor.read() if isinstance(tensor, Tensor) else tensor

    with named():
        tensors, metadata = _read_by_content(copy, whole)
    return {name: Tensor(t.shape, partial(values, t, held)) for name, t in tensors.items()}, metadata


def _read_by_content(path: Path, whole: bool) -> tuple[Tensors, dict[str, str]]:
    with open(path, "rb") as file:
        head = file.read(512)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 10**8:
        return _read_safetensors(path)
    if MAGIC in head[:32]:
        return read_torch(path), {}
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        arrays = read_pkl(path, whole=whole)
        if whole:
            return arrays, {}
        arrays = {name.removeprefix("backbone.bottom_up."): array for name, array in arrays.items()}
        if arrays and not from_detectron2(arrays):
            raise UserError(f"{path} has none of Detectron2's names (stem.conv1.weight), but {shorten(sorted(arrays))}")
        return from_detectron2(arrays), {}
    if head[:2] == b"PK":
        _require_torch_zip(path)
        return read_torch(path), {}
    what = next((what for begin, what in _OTHERS.items() if head.lstrip().startswith(begin)), None)
    what = what or ("a tar archive: unpack it first" if head[257:262] == b"ustar" else None)
    what = what or ("an ONNX file" if head[:1] == b"\x08" and b"\x12" in head[2:4] else None)
    what = what or (f"no file of weights: it begins with {head[:12]!r}" if head else "empty: fetch it again")
    raise UserError(f"{path} is {what}; {_READ}")


def _require_torch_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # a damaged zip can raise more than BadZipFile
        raise UserError(f"{path} is cut off or damaged: its zip has no end ({error}); fetch it again") from error
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        what = "arrays of NumPy (.npz)" if any(name.endswith(".npy") for name in names) else "a zip archive"
        raise UserError(f"{path} is {what} of {shorten(names)}, and no PyTorch file; {_READ}")


def _read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            kinds = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no readable safetensors file ({error}); fetch or export it again") from error
    return {name: Tensor(shape, partial(_values, path, name, kind)) for name, (shape, kind) in kinds.items()}, metadata


def _values(path: Path, name: str, kind: str) -> np.ndarray:
    if kind not in _SAFETENSORS_KINDS:
        raise UserError(
            f"{path}: {name} is of {kind} (float8 or such), which is not read: save it as float32 or bfloat16"
        )
    with safe_open(path, framework="numpy") as file:
        values = file.get_tensor(name)
    return values.astype(np.float32) if kind == "BF16" else values
