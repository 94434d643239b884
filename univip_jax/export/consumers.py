"""Reads an exported file back as the library that will load it does: uint8 images to features.

PyTorch's ResNet is the one in transformers: an implementation independent of ours, for every depth and width.
"""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.common.errors import UserError
from univip_jax.models.resnet import DEPTHS, ResNet
from univip_jax.weights.encoder import Encoder, load_encoder
from univip_jax.weights.files import read_backbone
from univip_jax.weights.names import State, to_torch, to_transformers

# uint8 [N, H, W, 3] to the maps after each stage [N, h, w, C], where the consumer shows them, and the features [N, F].
Outputs = Callable[[np.ndarray], list[np.ndarray]]


def extra(name: str) -> Any:
    """A library of requirements-export.txt; UserError where it is not installed."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched
    try:
        library = importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is missing ({error}): pip install -r requirements-export.txt") from error
    if name == "transformers":
        library.utils.logging.disable_progress_bar()
    return library


def transformers_model(net: ResNet, state: State) -> Any:
    """transformers' `ResNetModel` of this depth and width, with the weights of `state` (torchvision's names)."""
    torch, transformers = extra("torch"), extra("transformers")
    blocks, bottleneck = DEPTHS[net.variant]
    base = int(64 * net.width)
    config = transformers.ResNetConfig(
        embedding_size=base,
        hidden_sizes=[base * (4 if bottleneck else 1) * 2**stage for stage in range(4)],
        depths=list(blocks),
        layer_type="bottleneck" if bottleneck else "basic",
        downsample_in_bottleneck=net.stride_in_1x1,
    )
    model = transformers.ResNetModel(config).eval()
    model.load_state_dict({name: torch.tensor(value) for name, value in to_transformers(state).items()})
    return model


def torch_function(
    model: Any, mean: Any = 255 * IMAGENET_MEAN, std: Any = 255 * IMAGENET_STD, *, stages: bool = False
) -> Any:
    """A `torch.nn.Module` around transformers' model: uint8 [N, H, W, 3] to features [N, F]; it normalises itself.

    `mean` and `std` are of pixels in 0..255. With `stages` it returns a list: the maps after each stage, the features.
    """
    torch = extra("torch")

    class Function(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model
            self.register_buffer("mean", torch.tensor(np.float32(mean)))
            self.register_buffer("std", torch.tensor(np.float32(std)))

        def forward(self, images):
            pixels = ((images.to(torch.float32) - self.mean) / self.std).permute(0, 3, 1, 2)
            found = self.model(pixels, output_hidden_states=stages)
            features = found.pooler_output.flatten(1)
            return [*(maps.permute(0, 2, 3, 1) for maps in found.hidden_states[1:]), features] if stages else features

    return Function().eval()


def torch_outputs(model: Any, *mean_and_std: Any) -> Outputs:
    """Stages and features of a transformers model; mean and std as for `torch_function`."""
    torch, function = extra("torch"), torch_function(model, *mean_and_std, stages=True)

    def outputs(images: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [values.numpy() for values in function(torch.from_numpy(images))]

    return outputs


def array_outputs(path: Path) -> Outputs:
    """A file of arrays, in PyTorch."""
    net, variables, *_ = read_backbone(path)
    return torch_outputs(transformers_model(net, to_torch(variables)))


def transformers_outputs(path: Path) -> Outputs:
    """A folder, by transformers' own classes and with its own image processor's numbers."""
    transformers = extra("transformers")
    processor = transformers.ConvNextImageProcessorPil.from_pretrained(path)
    mean_and_std = np.array([processor.image_mean, processor.image_std]) / processor.rescale_factor
    return torch_outputs(transformers.ResNetModel.from_pretrained(path).eval(), *mean_and_std)


def jax_outputs(encoder: Encoder) -> Outputs:
    """Our own network, in float32 on the CPU, whatever the accelerator's default precision is."""
    cpu = jax.local_devices(backend="cpu")[0]
    variables = jax.device_put(encoder.variables, cpu)
    function = jax.jit(lambda variables, x: [*encoder.stages(variables, x), encoder.apply(variables, x)])

    def outputs(images: np.ndarray) -> list[np.ndarray]:
        with jax.default_matmul_precision("highest"):
            return jax.device_get(function(variables, jax.device_put(images, cpu)))

    return outputs


def our_outputs(path: Path) -> Outputs:
    """A file of arrays, in our own network."""
    return jax_outputs(load_encoder(path))


def onnx_outputs(path: Path) -> Outputs:
    """An ONNX function, in onnxruntime: the features alone."""
    session = extra("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["features"], {"images": images})


def stablehlo_outputs(path: Path) -> Outputs:
    """A StableHLO function, by `jax.export`: the features alone."""
    cpu = jax.local_devices(backend="cpu")[0]
    function = jax.export.deserialize(bytearray(path.read_bytes()))
    return lambda images: [np.asarray(function.call(jax.device_put(images, cpu)))]
