"""Exports a run's backbone, and proves by the consumer's own outputs that it is the same.

python -m univip_jax.export --run=runs/coco --format=torchvision --out=coco_r50.safetensors
"""

import os

# XLA reads both when it is imported. Its start-up notes hide what a user needs to read; the comparison runs on the CPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if (platforms := os.environ.get("JAX_PLATFORMS")) and "cpu" not in platforms.split(","):
    os.environ["JAX_PLATFORMS"] = f"{platforms},cpu"

import json
import tempfile
from pathlib import Path

from absl import flags

from univip_jax.common.cli import run as run_command
from univip_jax.common.errors import UserError
from univip_jax.config import CONFIG, read_config
from univip_jax.evaluate.results import RESULTS
from univip_jax.export.card import write_card
from univip_jax.export.detectron2.configs import write_configs
from univip_jax.export.formats import PRODUCER, WRITERS, Metadata, check_format, resnet_depth
from univip_jax.export.parity import TOLERANCE, compare
from univip_jax.weights.__main__ import ORIGIN, TASK, sha256_of
from univip_jax.weights.encoder import Encoder, load_encoder
from univip_jax.weights.files import read_backbone


def origin(run: Path, step: int) -> Metadata:
    """Who trained these weights, when and by what: an imported file's metadata tell it, where it has any."""
    if run.is_file():
        told, file = read_backbone(run)[2], {"file": run.name, "file_sha256": sha256_of(run)}
    elif (config := read_config(run)).task == TASK:
        told = config.imported.metadata.to_dict()
        file = {"file": config.imported.file, "file_sha256": config.imported.sha256}
    else:
        return {
            "producer": PRODUCER,
            "run": run.resolve().name,
            "step": str(step),
            "config_sha256": sha256_of(run / CONFIG),
        }
    return {name: told[name] for name in ORIGIN if name in told} | file


def describe(encoder: Encoder, run: Path, results: list[str], licence: str | None) -> Metadata:
    """What is written into the file and its card: text by name.

    Raises:
      UserError: a folder of `results` is no evaluation, or one of another run or step.
    """
    metadata = {
        "licence": "other",
        **origin(run, encoder.step),
        "backbone": encoder.backbone.variant,
        "width": f"{encoder.backbone.width:g}",
        "stem": encoder.backbone.stem,
        "image_size": str(encoder.image_size),
    }
    if licence:
        metadata["licence"] = licence
    if results:
        metadata["results"] = json.dumps([_read_results(Path(folder), encoder, run) for folder in results])
    return metadata


def _read_results(folder: Path, encoder: Encoder, run: Path) -> dict:
    try:
        found = json.loads((folder / RESULTS).read_bytes())
        source, step = Path(found["pretrained"]), found["step"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--results={folder} is no finished evaluation: {RESULTS} cannot be read ({error})") from error
    if source.resolve() != run.resolve() or step != encoder.step:
        raise UserError(f"--results={folder} is of {source} after {step} steps, not of {run} after {encoder.step}")
    return found


def export(run: Path, kind: str, out: Path, *, step: int | None, results: list[str], licence: str | None) -> dict:
    """Writes OUT, its model card and `OUT.parity.json`; nothing of them where the proof fails. Returns the report.

    Raises:
      UserError: no such run, a format that does not suit it, a file is in the way, or the consumer computes something
        else.
    """
    configs = out.with_name(f"{out.stem}_configs")
    for place in (out, out.with_name(f"{out.name}.md"), out.with_name(f"{out.name}.parity.json"), configs):
        if place.exists():
            raise UserError(f"{place} exists; remove it, or choose another --out")
    encoder = load_encoder(run, step)
    check_format(kind, encoder, out)
    metadata = describe(encoder, run, results, licence)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Everything is made and proven beside OUT, then moved: the file that others wait for comes last.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as made:
            path = Path(made) / out.name
            WRITERS[kind](encoder, path, metadata)
            report = compare(encoder, kind, path)
            card = path / "README.md" if path.is_dir() else path.with_name(f"{out.name}.md")
            write_card(card, encoder, kind, out, metadata, report)
            text = json.dumps(report, indent=2, allow_nan=False)
            path.with_name(f"{out.name}.parity.json").write_text(text + "\n")
            if kind == "detectron2":
                depth, width = resnet_depth(encoder), encoder.backbone.width
                write_configs(path.with_name(configs.name), str(out.resolve()), depth=depth, width=width, place=configs)
            for file in sorted(Path(made).iterdir(), key=lambda file: file == path):
                file.rename(out.parent / file.name)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error
    return report


def _define_flags() -> None:
    flags.DEFINE_string("run", None, "Folder of a pre-training run, or a file of weights.")
    flags.DEFINE_enum("format", None, list(WRITERS), "Who will load it.")
    flags.DEFINE_string("out", None, "File to write; for transformers a folder.")
    flags.DEFINE_integer("step", None, "Checkpoint of the run; the newest by default.")
    flags.DEFINE_list("results", [], "Folders of evaluations of this run, whose numbers go into the model card.")
    flags.DEFINE_string("licence", None, "Of the weights, as model hubs name it; by default that of an imported file.")


def _work() -> None:
    given = flags.FLAGS
    out = Path(given.out)
    report = export(Path(given.run), given.format, out, step=given.step, results=given.results, licence=given.licence)
    consumers = ", ".join(f"{name} {version}" for name, version in report["consumer"].items())
    print(f"{out}: {consumers} compute the same from it to {report['largest_difference']:.1e} (allowed {TOLERANCE:g})")


if __name__ == "__main__":
    run_command("univip_jax.export", _define_flags, ("run", "format", "out"), _work, interrupted="nothing was written")
