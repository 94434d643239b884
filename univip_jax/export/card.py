"""The model card beside an exported file: what it is, where it comes from, how to load it."""

import json
from pathlib import Path

from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import UserError
from univip_jax.common.files import at, sha256_of
from univip_jax.evaluate.results import RESULTS, read_results
from univip_jax.export.formats import Metadata, has_class
from univip_jax.export.parity import summary
from univip_jax.run.folder import CONFIG, STARTED_FROM, read_config
from univip_jax.weights.encoder import Encoder
from univip_jax.weights.files import read_backbone
from univip_jax.weights.imported import ORIGIN, TASK

PRODUCER = "univip_jax"  # in the metadata of what it trained
_LOAD = {
    "torchvision": """model = torchvision.models.{backbone}()
model.fc = torch.nn.Identity()
model.load_state_dict(safetensors.torch.load_file("{file}"))  # strict: every key fits""",
    "timm": """model = timm.create_model("{backbone}", num_classes=0)
model.load_state_dict(safetensors.torch.load_file("{file}"))  # strict: every key fits""",
    "detectron2": """# The configs beside the file hold every setting that the weights need:
python tools/train_net.py --num-gpus 8 --config-file {stem}_configs/1x.yaml""",
    "transformers": """processor = transformers.AutoImageProcessor.from_pretrained("{file}")
model = transformers.AutoModel.from_pretrained("{file}")""",
    "safetensors": """encoder = univip_jax.load_encoder("{file}")
features = encoder(images)  # uint8 [N, H, W, 3]""",
    "onnx": """session = onnxruntime.InferenceSession("{file}")
(features,) = session.run(["features"], {{"images": images}})  # uint8 [N, H, W, 3]; it normalises itself""",
    "stablehlo": """function = jax.export.deserialize(bytearray(open("{file}", "rb").read()))
features = function.call(images)  # uint8 [N, H, W, 3]; it normalises itself""",
}
_NO_CLASS = """# No library builds a {backbone} of width {width:g} under these names: load it into a ResNet of your own,
# or export with --format=transformers, which has a ResNet of any depth and width."""
_TRAINED = "univip_jax trained it without labels (UniVIP, CVPR 2022); batch norm holds its running statistics."
_IMPORTED = "univip_jax imported it from the file below and did not train it."


def _origin(run: Path, step: int) -> Metadata:
    """Who trained these weights, when and how; for an imported file its own metadata tell, where it has any."""
    if run.is_file():
        known, file = read_backbone(run).metadata, {"file": run.name, "file_sha256": sha256_of(run)}
    elif (config := read_config(run)).task == TASK:
        known = config.imported.metadata.to_dict()
        file = {"file": config.imported.file, "file_sha256": config.imported.sha256}
    else:
        digest = sha256_of(run / CONFIG)
        known = {"producer": PRODUCER, "run": run.resolve().name, "step": str(step), "config_sha256": digest}
        if facts := config.get(STARTED_FROM):
            known["started_from"] = f"{facts.source}, step {facts.step}, weights sha256 {facts.weights}"
            known |= {"licence": facts.licence} if facts.licence else {}
        return known
    return {name: known[name] for name in ORIGIN if name in known} | file


def _results(folder: Path, encoder: Encoder, run: Path) -> dict:
    found = read_results(folder)
    source, step = (found.get(name) for name in ("pretrained", "step")) if isinstance(found, dict) else (None, None)
    place = source if is_bucket(run) else Path(source or "").resolve()
    if str(place) != str(run.resolve()) or step != encoder.step:
        raise UserError(
            f"--results={folder} is no finished evaluation of {run} after {encoder.step} steps: its {RESULTS} names "
            f"{source} after {step}"
        )
    return found


def describe(encoder: Encoder, run: Path, results: list[str], licence: str | None) -> Metadata:
    """What goes into the file and its card: text by name.

    Raises:
      UserError: a folder of `results` is no evaluation, or evaluates another run or step.
    """
    metadata = {
        "licence": "other",
        **_origin(run, encoder.step),
        "backbone": encoder.backbone.variant,
        "width": f"{encoder.backbone.width:g}",
        "stem": encoder.backbone.stem,
        "image_size": str(encoder.image_size),
    }
    if licence:
        metadata["licence"] = licence
    if results:
        metadata["results"] = json.dumps([_results(at(folder), encoder, run) for folder in results])
    return metadata


def write_card(path: Path, encoder: Encoder, kind: str, out: Path, metadata: Metadata, parity: dict) -> None:
    """Writes Markdown with the front matter that model hubs read."""
    net = encoder.backbone
    code = _NO_CLASS if kind == "torchvision" and not has_class(kind, encoder) else _LOAD[kind]
    load = code.format(backbone=net.variant, width=net.width, file=out.name, stem=out.stem)
    ours = metadata.get("producer") == PRODUCER
    names = ("run", "step", "config_sha256", "started_from", "file", "file_sha256")
    origin = [f"{name} `{metadata[name]}`" for name in names if name in metadata]
    mean, std = (values.astype(float).round(3).tolist() for values in (IMAGENET_MEAN, IMAGENET_STD))
    path.write_text(
        f"""---
license: {metadata["licence"]}
library_name: {kind}
tags: [feature-extraction{", self-supervised, univip" if ours else ""}]
---
# {net.variant}, width {net.width:g}, {"pre-trained by UniVIP" if ours else "imported"}

A backbone without a classifier. {_TRAINED if ours else _IMPORTED}

- {", ".join(origin)}
- images: RGB in 0..1; mean {mean}, std {std}; trained on crops of {encoder.image_size} px
- convolutions are padded as in PyTorch, the stride of a bottleneck sits in its 3x3
- evaluations: {metadata.get("results", "none was named by --results")}
- proof (`{out.name}.parity.json`): {summary(parity)}

```
{load}
```
"""
    )
