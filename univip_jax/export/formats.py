"""The formats: who reads each, how it is written, and which backbones suit it."""

import json
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
    processor = {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": encoder.image_size},
        "crop_pct": 224 / 256,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": IMAGENET_MEAN.tolist(),
        "image_std": IMAGENET_STD.tolist(),
    }
    (out / consumers.PROCESSOR).write_text(json.dumps(processor, indent=2) + "\n")
    mode = (out / consumers.PROCESSOR).stat().st_mode
    for file in out.iterdir():
        file.chmod(mode)  # safetensors makes files that only their owner can read


def write_onnx(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """The encoder as a function, uint8 [N, H, W, 3] to float32 [N, F], for any N, H and W."""
    torch, onnx = extra("torch"), extra("onnx")
    model = consumers.transformers_model(encoder.backbone, to_torch(encoder.variables))
    example = torch.zeros(2, 96, 128, 3, dtype=torch.uint8)
    free = {0: torch.export.Dim("N"), 1: torch.export.Dim("H", min=32), 2: torch.export.Dim("W", min=32)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it logs its steps and optional operators
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
    program = torch.onnx.export(
        consumers.torch_function(model), (example,), dynamo=True, dynamic_shapes=(free,), input_names=["images"],
        output_names=["features"], verbose=False,
    )  # fmt: skip
    proto = program.model_proto
    onnx.helper.set_model_props(proto, metadata)
    out.write_bytes(proto.SerializeToString())


def write_stablehlo(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """The encoder as a function that `jax.export` serializes for CPU, CUDA and TPU; any N, H and W."""
    images = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, h, w, 3"), np.uint8)
    function = jax.jit(lambda images: encoder.apply(encoder.variables, images))
    out.write_bytes(jax.export.export(function, platforms=["cpu", "cuda", "tpu"])(images).serialize())


class Format(NamedTuple):
    """How a format is written and read back; a file of `arrays` is one that `univip_jax.load_encoder` reads too."""

    suffix: str
    write: Callable[[Encoder, Path, Metadata], None]
    libraries: tuple[str, ...]
    outputs: Callable[[Path], Outputs]
    arrays: bool = False
    any_stem: bool = False


_TORCH = ("transformers", "torch")
FORMATS = {
    "torchvision": Format(".safetensors", write_torch_names, _TORCH, consumers.torchvision_outputs, arrays=True),
    "timm": Format(".safetensors", write_torch_names, _TORCH, consumers.torchvision_outputs, arrays=True),
    "detectron2": Format(".pkl", write_detectron2, _TORCH, consumers.detectron2_outputs, arrays=True),
    "transformers": Format("", write_transformers, _TORCH, consumers.transformers_outputs),
    "safetensors": Format(".safetensors", write_our_names, ("jax",), consumers.our_outputs, arrays=True, any_stem=True),
    "onnx": Format(".onnx", write_onnx, ("onnxruntime",), consumers.onnx_outputs),
    "stablehlo": Format(".stablehlo", write_stablehlo, ("jax",), consumers.stablehlo_outputs, any_stem=True),
}


def has_class(library: str, encoder: Encoder) -> bool:
    """Whether torchvision or timm builds this ResNet by its own name."""
    missing = {"torchvision": NOT_BUILT, "timm": ("resnet10",)}[library]
    return encoder.backbone.variant not in missing and encoder.backbone.width == 1


def check_format(name: str, encoder: Encoder, out: Path) -> None:
    """Raises UserError where this backbone or this file name does not suit the format."""
    net = encoder.backbone
    if net.stem != "imagenet" and not FORMATS[name].any_stem:
        able = [format for format in FORMATS if FORMATS[format].any_stem]
        raise UserError(
            f"--format={name}: {encoder.source} has model.stem={net.stem}, which has no counterpart there; choose one "
            f"of {', '.join(able)}, or train with model.stem=imagenet"
        )
    if name == "timm" and not has_class(name, encoder):
        raise UserError(
            f"--format=timm: {encoder.source} is a {net.variant} of width {net.width:g}, which timm does not build; "
            "--format=transformers has a model of any depth and width"
        )
    if name == "detectron2":
        resnet_keys(encoder.backbone)
    if out.suffix != FORMATS[name].suffix and FORMATS[name].suffix:
        raise UserError(f"--out={out}: a file of --format={name} ends in {FORMATS[name].suffix}")
