"""Reads a backbone from a file of weights, ours or of another project, without running code from the file."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from univip_jax.common.errors import UserError
from univip_jax.models.resnet import ResNet
from univip_jax.weights.names import State, from_detectron2, from_flat, from_torch
from univip_jax.weights.pickle_file import read_pkl

SUFFIXES = (".safetensors", ".pkl", ".pth", ".pt", ".tar", ".bin", ".ckpt")  # from the third on PyTorch's
# In a checkpoint of two networks, one of these words names the one that gradients train.
_ONLINE = ("encoder_q", "base_encoder", "online", "student")
_STEM = "conv1.weight"
_DEEPEST = 8  # nested dicts of a PyTorch checkpoint


def read_backbone(path: Path, prefix: str | None = None) -> tuple[ResNet, dict, dict[str, str]]:
    """The network and variables of a file's backbone, and the file's text metadata.

    Reads safetensors (torchvision's names, or our own names of `--format=safetensors`), Detectron2's `.pkl` and
    PyTorch's checkpoints. The name that ends in `conv1.weight` shows where the ResNet is; where the file holds several
    networks, `prefix` is that of its names, with its dot.

    Raises UserError where the file is missing or damaged, holds code, or holds no plain ResNet.
    """
    if not path.is_file() or path.suffix not in SUFFIXES:
        what = "is no file of weights" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}; give a file whose name ends in {', '.join(SUFFIXES)}")
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
    else:
        state = from_detectron2(read_pkl(path)) if path.suffix == ".pkl" else _read_torch(path)
    if not state:
        raise UserError(f"{path} holds no tensors by name; save the network's state_dict")
    if any("/" in name for name in state):
        return *from_flat(state, str(path)), metadata
    return *from_torch(_strip(state, prefix, path), str(path)), metadata


def number_of(metadata: dict[str, str], name: str, default: int, largest: int) -> int:
    """A positive whole number of a file's metadata; the default where they hold none up to the largest."""
    text = metadata.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 16 and 0 < int(text) <= largest else default


def image_size_of(metadata: dict[str, str]) -> int:
    """Side of the crops that the network was trained on, px; 224 where the metadata hold no sensible number."""
    return number_of(metadata, "image_size", 224, 4096)


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
    """The ResNet's arrays without their prefix: the given one, or that of the only or of the online network."""
    if prefix is None:
        stems = [name for name in state if name.endswith(_STEM) and state[name].ndim == 4]
        found = [name.removesuffix(_STEM) for name in stems if state[name].shape[1] == 3]
        online = [name for name in found if any(word in name for word in _ONLINE)]
        found = online if len(online) == 1 else found
        if len(found) > 1:
            choices = " or ".join(f"--prefix={name}" for name in found)
            raise UserError(f"{path} holds {len(found)} networks: choose by {choices}")
        prefix = found[0] if found else ""
    below = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not below:
        raise UserError(f"{path} has no name that begins with --prefix={prefix}; it has {min(state)}, ...")
    return below
