"""The formats: who reads each, how it is written, and which backbones suit it."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from safetensors.numpy import save

from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.common.errors import UserError
from univip_jax.export import consumers
from univip_jax.export.consumers import Outputs, extra
from univip_jax.export.detectron2.configs import NOT_BUILT, resnet_keys
from univip_jax.weights.encoder import Encoder
from univip_jax.weights.names import to_detectron2, to_flat, to_torch
from univip_jax.weights.pickle_file import write_pkl

Metadata = dict[str, str]


def write_torch_names(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """safetensors under torchvision's names, which timm shares; without a classifier."""
    out.write_bytes(save(to_torch(encoder.variables), {"format": "pt", **metadata}))


def write_our_names(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """safetensors under our own names and layout, `params/layer1_0/conv1/kernel` [h, w, in, out]; takes either stem."""
    out.write_bytes(save(to_flat(encoder.variables), metadata))


def write_detectron2(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """Detectron2's pickle of NumPy arrays, the one format that must be a pickle; it has no room for metadata."""
    write_pkl(out, to_detectron2(to_torch(encoder.variables)))


def write_transformers(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """A folder for `from_pretrained`: config, safetensors, and how to prepare images."""
    model = consumers.transformers_model(encoder.backbone, to_torch(encoder.variables))
    model.config.update({"univip_jax": metadata})
    model.save_pretrained(out)
    extra("transformers").ConvNextImageProcessorPil(
        size={"shortest_edge": encoder.image_size}, crop_pct=224 / 256, resample=3, image_mean=IMAGENET_MEAN.tolist(),
        image_std=IMAGENET_STD.tolist(),
    ).save_pretrained(out)  # fmt: skip
    for file in out.iterdir():
        file.chmod((out / "config.json").stat().st_mode)  # safetensors makes files that only their owner can read


def write_onnx(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """The encoder as a function, uint8 [N, H, W, 3] to float32 [N, F], for any N, H and W."""
    torch, onnx = extra("torch"), extra("onnx")
    model = consumers.transformers_model(encoder.backbone, to_torch(encoder.variables))
    example = torch.zeros(2, 96, 128, 3, dtype=torch.uint8)
    free = {0: torch.export.Dim("N"), 1: torch.export.Dim("H", min=32), 2: torch.export.Dim("W", min=32)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it logs its steps and optional operators
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
    proto = torch.onnx.export(
        consumers.torch_function(model), (example,), dynamo=True, dynamic_shapes=(free,), input_names=["images"],
        output_names=["features"], verbose=False,
    ).model_proto  # fmt: skip
    onnx.helper.set_model_props(proto, metadata)
    out.write_bytes(proto.SerializeToString())


def write_stablehlo(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """The encoder as a function that `jax.export` serializes for CPU, CUDA and TPU; any N, H and W."""
    images = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, h, w, 3"), np.uint8)
    function = jax.jit(lambda images: encoder.apply(encoder.variables, images))
    out.write_bytes(jax.export.export(function, platforms=["cpu", "cuda", "tpu"])(images).serialize())


class Format(NamedTuple):
    """How a format is written and read back, and the libraries that read it; our own network has either stem."""

    suffix: str
    write: Callable[[Encoder, Path, Metadata], None]
    libraries: tuple[str, ...]
    outputs: Callable[[Path], Outputs]

    @property
    def holds_arrays(self) -> bool:
        """Whether `univip_jax.load_encoder` reads it too."""
        return self.suffix in (".safetensors", ".pkl")


OURS = ("jax",)
_TORCH = ("transformers", "torch")
FORMATS = {
    "torchvision": Format(".safetensors", write_torch_names, _TORCH, consumers.array_outputs),
    "timm": Format(".safetensors", write_torch_names, _TORCH, consumers.array_outputs),
    "detectron2": Format(".pkl", write_detectron2, _TORCH, consumers.array_outputs),
    "transformers": Format("", write_transformers, _TORCH, consumers.transformers_outputs),
    "safetensors": Format(".safetensors", write_our_names, OURS, consumers.our_outputs),
    "onnx": Format(".onnx", write_onnx, ("onnxruntime",), consumers.onnx_outputs),
    "stablehlo": Format(".stablehlo", write_stablehlo, OURS, consumers.stablehlo_outputs),
}


def has_class(library: str, encoder: Encoder) -> bool:
    """Whether torchvision or timm builds this ResNet by its own name."""
    missing = {"torchvision": NOT_BUILT, "timm": ("resnet10",)}[library]
    return encoder.backbone.variant not in missing and encoder.backbone.width == 1


def check_format(name: str, encoder: Encoder, out: Path) -> None:
    """Raises UserError where this backbone or this file name does not suit the format."""
    net, suffix = encoder.backbone, FORMATS[name].suffix
    if net.stem != "imagenet" and FORMATS[name].libraries != OURS:
        able = [name for name, format in FORMATS.items() if format.libraries == OURS]
        raise UserError(
            f"--format={name}: {encoder.source} has model.stem={net.stem}, which has no counterpart there; choose one "
            f"of {', '.join(able)}, or train with --config.model.stem=imagenet"
        )
    if name == "timm" and not has_class(name, encoder):
        raise UserError(
            f"--format=timm: {encoder.source} is a {net.variant} of width {net.width:g}, which timm does not build; "
            "--format=transformers has a model of any depth and width"
        )
    if name == "detectron2":
        resnet_keys(net)
    if suffix and out.suffix != suffix:
        raise UserError(f"--out={out}: a file of --format={name} ends in {suffix}")
