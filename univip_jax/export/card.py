"""The model card beside an exported file: what it is, where it is from, how it is loaded."""

from pathlib import Path

from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.export.formats import PRODUCER, has_class, resnet_depth
from univip_jax.weights.encoder import Encoder

_LOAD = {
    "torchvision": """model = torchvision.models.{backbone}()
model.fc = torch.nn.Identity()
model.load_state_dict(safetensors.torch.load_file("{file}"))  # strict: every key fits""",
    "timm": """model = timm.create_model("{backbone}", num_classes=0)
model.load_state_dict(safetensors.torch.load_file("{file}"))  # strict: every key fits""",
    "detectron2": """# The three configs beside the file hold every setting that the weights need:
python tools/train_net.py --num-gpus 8 --config-file {stem}_configs/mask_rcnn_R_{depth}_FPN_1x.yaml""",
    "transformers": """processor = transformers.AutoImageProcessor.from_pretrained("{file}")
model = transformers.AutoModel.from_pretrained("{file}")""",
    "safetensors": """encoder = univip_jax.load_encoder("{file}")
features = encoder(images)  # uint8 [N, H, W, 3]""",
    "onnx": """session = onnxruntime.InferenceSession("{file}")
(features,) = session.run(["features"], {{"images": images}})  # uint8 [N, H, W, 3]; normalises by itself""",
    "stablehlo": """function = jax.export.deserialize(bytearray(open("{file}", "rb").read()))
features = function.call(images)  # uint8 [N, H, W, 3]; normalises by itself""",
}


_NO_CLASS = """# No library builds a {backbone} of width {width:g} by these names: load it into a ResNet of your own,
# or export with --format=transformers, which has one of any depth and width."""


def write_card(path: Path, encoder: Encoder, kind: str, out: Path, metadata: dict[str, str], parity: dict) -> None:
    """Writes Markdown with the front matter that model hubs read."""
    net = encoder.backbone
    code = _NO_CLASS if kind == "torchvision" and not has_class(kind, encoder) else _LOAD[kind]
    load = code.format(backbone=net.variant, width=net.width, file=out.name, stem=out.stem, depth=resnet_depth(encoder))
    consumers = ", ".join(f"{name} {version}" for name, version in parity["consumer"].items())
    ours = metadata.get("producer") == PRODUCER
    trained = "pre-trained by UniVIP" if ours else "imported"
    facts = ("run", "step", "config_sha256", "file", "file_sha256")
    told = [f"{name} `{metadata[name]}`" for name in facts if name in metadata]
    path.write_text(
        f"""---
license: {metadata["licence"]}
library_name: {kind}
tags: [feature-extraction{", self-supervised, univip" if ours else ""}]
---
# {net.variant}, width {net.width:g}, {trained}

A backbone without a classifier. {_TRAINED if ours else _IMPORTED}

- {", ".join(told)}
- images: RGB; mean {[round(float(v), 3) for v in IMAGENET_MEAN]}, std {[round(float(v), 3) for v in IMAGENET_STD]}
  of pixels in 0..1; trained on crops of {encoder.image_size} px
- convolutions are padded as PyTorch does it, the stride of a bottleneck sits in its 3x3
- evaluations: {metadata.get("results", "none was named by --results")}
- parity: read back by {consumers}, outputs differ by at most {parity["largest_difference"]:.1e} of a stage's
  largest value (`{out.name}.parity.json`)

```
{load}
```
"""
    )


_TRAINED = "It was trained without labels by univip_jax (UniVIP, CVPR 2022); batch norm holds its running statistics."
_IMPORTED = "univip_jax read it from a file of others (below) and did not train it."
