"""Writing a backbone in each format."""

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save

from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.common.errors import UserError
from univip_jax.export import consumers
from univip_jax.export.detectron2.configs import mask_rcnn_config
from univip_jax.weights.detectron2 import to_detectron2
from univip_jax.weights.encoder import Encoder
from univip_jax.weights.names import to_flat, to_torch
from univip_jax.weights.pickle_file import write_pkl

Metadata = dict[str, str]
PRODUCER = "univip_jax"  # in the metadata of what it trained


def write_torch_names(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """safetensors by torchvision's names, which are timm's; without a classifier."""
    out.write_bytes(save(to_torch(encoder.variables), {"format": "pt", **metadata}))


def write_our_names(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """safetensors by our own names and layout, `params/layer1_0/conv1/kernel` [h, w, in, out]: either stem."""
    out.write_bytes(save(to_flat(encoder.variables), metadata))


def write_detectron2(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """Detectron2's pickle of NumPy arrays, the one format that must be a pickle."""
    write_pkl(out, to_detectron2(to_torch(encoder.variables)))


def write_transformers(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """A folder for `from_pretrained`: config, safetensors, and how to prepare images."""
    model = consumers.transformers_model(encoder.backbone, to_torch(encoder.variables))
    model.config.update({"univip_jax": metadata})
    model.save_pretrained(out)
    size = encoder.image_size
    processor = {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
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
        file.chmod(mode)  # safetensors writes for its owner alone


def write_onnx(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """The encoder as a function, uint8 [N, H, W, 3] to float32 [N, F], for any N, H and W."""
    torch, onnx = consumers.extra("torch"), consumers.extra("onnx")
    function = consumers.torch_function(consumers.transformers_model(encoder.backbone, to_torch(encoder.variables)))
    example = torch.zeros(2, 96, 128, 3, dtype=torch.uint8)
    free = {0: torch.export.Dim("N"), 1: torch.export.Dim("H", min=32), 2: torch.export.Dim("W", min=32)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # its steps, and optional operators that we do not need
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
    program = torch.onnx.export(
        function, (example,), dynamo=True, dynamic_shapes=(free,), input_names=["images"], output_names=["features"],
        verbose=False,
    )  # fmt: skip
    onnx.helper.set_model_props(model := program.model_proto, metadata)
    out.write_bytes(model.SerializeToString())


def write_stablehlo(encoder: Encoder, out: Path, metadata: Metadata) -> None:
    """The encoder as a function, as `jax.export` serializes it, for CPU, CUDA and TPU; any N, H and W."""
    images = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, h, w, 3"), np.uint8)
    function = jax.jit(lambda images: encoder.apply(encoder.variables, images))
    out.write_bytes(jax.export.export(function, platforms=["cpu", "cuda", "tpu"])(images).serialize())


WRITERS: dict[str, Callable[[Encoder, Path, Metadata], Any]] = {
    "torchvision": write_torch_names,
    "timm": write_torch_names,
    "detectron2": write_detectron2,
    "transformers": write_transformers,
    "safetensors": write_our_names,
    "onnx": write_onnx,
    "stablehlo": write_stablehlo,
}
_ANY_STEM = ("safetensors", "stablehlo")
OUT_SUFFIXES = {
    "torchvision": ".safetensors",
    "timm": ".safetensors",
    "safetensors": ".safetensors",
    "detectron2": ".pkl",
    "transformers": "",
    "onnx": ".onnx",
    "stablehlo": ".stablehlo",
}


def resnet_depth(encoder: Encoder) -> int:
    """50 of a ResNet-50."""
    return int(encoder.backbone.variant.removeprefix("resnet"))


# Depths of which these libraries have a ready class or name, at width 1.
_BUILT = {"torchvision": (18, 34, 50, 101, 152), "timm": (18, 34, 50, 101, 152, 200)}


def has_class(name: str, encoder: Encoder) -> bool:
    """Whether torchvision or timm builds this ResNet by its own name."""
    return resnet_depth(encoder) in _BUILT[name] and encoder.backbone.width == 1


def check_format(name: str, encoder: Encoder, out: Path) -> None:
    """Raises UserError where this backbone or this file name does not suit the format."""
    if encoder.backbone.stem != "imagenet" and name not in _ANY_STEM:
        raise UserError(
            f"--format={name}: {encoder.source} has model.stem={encoder.backbone.stem}, which no ResNet there has; "
            f"choose one of {', '.join(_ANY_STEM)}, or train with model.stem=imagenet"
        )
    if name == "timm" and not has_class(name, encoder):
        raise UserError(
            f"--format=timm: {encoder.source} is a {encoder.backbone.variant} of width {encoder.backbone.width:g}, "
            "which timm does not build; --format=transformers has a model of any depth and width"
        )
    if name == "detectron2":  # says what it does not build
        mask_rcnn_config("1x", str(out), depth=resnet_depth(encoder), width=encoder.backbone.width)
    if OUT_SUFFIXES[name] and out.suffix != OUT_SUFFIXES[name]:
        raise UserError(f"--out={out}: a file of --format={name} ends in {OUT_SUFFIXES[name]}")
