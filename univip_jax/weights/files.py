"""Reads a backbone from a file of weights, ours or of another project, without running code from the file."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from univip_jax.common.errors import UserError
from univip_jax.weights.names import Architecture, State, from_detectron2, from_flat, from_torch
from univip_jax.weights.pickle_file import read_pkl

TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt")
SUFFIXES = (".safetensors", ".pkl", *TORCH_SUFFIXES)
# In a checkpoint of two networks, one of these words names the one that gradients train.
_ONLINE = ("encoder_q", "base_encoder", "online", "student")
_STEM = "conv1.weight"
_DEEPEST = 8  # nested dicts of a PyTorch checkpoint
_LARGEST_IMAGE = 4096  # px


def read_backbone(path: Path, prefix: str | None = None) -> tuple[Architecture, dict, dict[str, str]]:
    """The architecture and variables of a file's backbone, and the file's text metadata.

    Reads safetensors (torchvision's names, or our own names of `--format=safetensors`), Detectron2's `.pkl` and
    PyTorch's checkpoints. The name that ends in `conv1.weight` shows where the ResNet is.

    Args:
      prefix: the prefix of the ResNet's names, with its dot, where the file holds several networks.

    Raises:
      UserError: the file is missing or damaged, holds code, or holds no plain ResNet.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}; give a file of weights ({', '.join(SUFFIXES)})")
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
    elif path.suffix == ".pkl":
        state = from_detectron2(read_pkl(path), str(path))
    elif path.suffix in TORCH_SUFFIXES:
        state = _read_torch(path)
    else:
        raise UserError(f"{path}: a file of weights ends in {', '.join(SUFFIXES)}")
    if not state:
        raise UserError(f"{path} holds no tensors by name; save the network's state_dict")
    if any("/" in name for name in state):
        return *from_flat(state, str(path)), metadata
    return *from_torch(_strip(state, prefix, path), str(path)), metadata


def number_of(metadata: dict[str, str], name: str) -> int:
    """A whole number of a file's metadata; 0 where they hold none."""
    text = metadata.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 16 else 0


def image_size_of(metadata: dict[str, str]) -> int:
    """Side of the crops that the network was trained on, px; 224 where the metadata hold no sensible number."""
    size = number_of(metadata, "image_size")
    return size if 0 < size <= _LARGEST_IMAGE else 224


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:  # float8 has no NumPy type
        raise UserError(f"{path} is no readable safetensors file ({error}); fetch or export it again") from error


def _read_torch(path: Path) -> State:
    """Every tensor of a checkpoint by its dotted name; `weights_only`, so that PyTorch runs nothing in it."""
    try:
        import torch  # late: an extra that nothing else here needs
    except ImportError:
        raise UserError(f"{path} is a PyTorch file: pip install -r requirements-export.txt to read it") from None
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise anything inside its zip and pickle readers
        lines = [f"{type(error).__name__} {line.strip()}".strip() for line in str(error).splitlines() or [""]]
        reason = next((line for line in lines if "GLOBAL" in line), lines[0])
        raise UserError(
            f"{path} cannot be read as weights alone ({reason}): it is damaged, or holds code, which is not run; if "
            "you trust it, load it yourself and save its state_dict as safetensors"
        ) from error
    state: State = {}

    def collect(name: str, value: Any, depth: int = 0) -> None:
        if isinstance(value, dict) and depth < _DEEPEST:  # a file can make a dict that holds itself
            for key, below in value.items():
                collect(f"{name}.{key}" if name else str(key), below, depth + 1)
        elif name and isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_quantized:
            state[name] = value.detach().float().numpy() if value.is_floating_point() else value.detach().numpy()

    collect("", contents)
    return state


def _strip(state: State, prefix: str | None, path: Path) -> State:
    """The arrays below the ResNet's prefix, without the prefix."""
    if prefix is None:
        prefix = _find_prefix(state, path)
    below = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not below:
        raise UserError(f"{path} has no name that begins with --prefix={prefix}; it has {min(state)}, ...")
    return below


def _find_prefix(state: State, path: Path) -> str:
    """The prefix of the only network, or of the online one; UserError where a choice is left."""
    stems = [name for name, value in state.items() if name.endswith(_STEM) and np.ndim(value) == 4]
    prefixes = [name.removesuffix(_STEM) for name in stems if state[name].shape[1] == 3]
    if len(prefixes) > 1:
        online = [prefix for prefix in prefixes if any(word in prefix for word in _ONLINE)]
        prefixes = online if len(online) == 1 else prefixes
    if len(prefixes) > 1:
        choices = " or ".join(f"--prefix={prefix}" for prefix in prefixes)
        raise UserError(f"{path} holds {len(prefixes)} networks: choose by {choices}")
    return prefixes[0] if prefixes else ""
