"""Exports a run's backbone, or a whole detector, and proves that the file holds the same network.

python -m univip_jax.export --run=runs/coco --format=torchvision --out=coco_r50.safetensors
python -m univip_jax.export --run=runs/coco_det --format=detectron2_detector --out=mask_rcnn.pkl
"""

import os

# XLA reads both on import. Its start-up notes hide what a user needs to read; the comparison runs on the CPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if (platforms := os.environ.get("JAX_PLATFORMS")) and "cpu" not in platforms.split(","):
    os.environ["JAX_PLATFORMS"] = f"{platforms},cpu"

import json
from pathlib import Path

from absl import flags

from univip_jax.common.cli import define_path
from univip_jax.common.cli import run as run_command
from univip_jax.common.errors import UserError
from univip_jax.common.files import at, expand
from univip_jax.export.beside import made_beside
from univip_jax.export.card import describe, write_card
from univip_jax.export.detectors import DETECTORS, export_detector
from univip_jax.export.detectron2.configs import named_in_config, write_configs
from univip_jax.export.formats import FORMATS, check_format
from univip_jax.export.parity import prove, summary
from univip_jax.weights.detector_file import DETECTOR
from univip_jax.weights.encoder import load_encoder


def export(run: Path, kind: str, out: Path, *, step: int | None, results: list[str], licence: str | None) -> dict:
    """Writes OUT, its model card and `OUT.parity.json`; nothing where the proof fails. Returns the report.

    Raises:
      UserError: no such run, a format that does not suit it, a file is in the way, or the proof fails.
    """
    configs = out.with_name(f"{out.stem}_configs")
    for place in (out, out.with_name(f"{out.name}.md"), out.with_name(f"{out.name}.parity.json"), configs):
        if place.exists():
            raise UserError(f"{place} exists; remove it, or choose another --out")
    if (run / DETECTOR).exists():
        raise UserError(
            f"{run} is a detector's run, --format={kind} a backbone's: give --format={' or '.join(DETECTORS)}"
        )
    encoder = load_encoder(run, step)
    check_format(kind, encoder, out)
    metadata = describe(encoder, run, results, licence)
    with made_beside(out) as path:
        FORMATS[kind].write(encoder, path, metadata)
        report = prove(encoder, kind, path)
        card = path / "README.md" if path.is_dir() else path.with_name(f"{out.name}.md")
        write_card(card, encoder, kind, out, metadata, report)
        text = json.dumps(report, indent=2, allow_nan=False)
        path.with_name(f"{out.name}.parity.json").write_text(text + "\n")
        if kind == "detectron2":
            write_configs(path.with_name(configs.name), named_in_config(out), encoder.backbone)
    return report


def _define_flags() -> None:
    define_path("run", None, "Folder of a pre-training run, for a detector of a detection run; or a weights file.")
    flags.DEFINE_enum("format", None, [*FORMATS, *DETECTORS], "Who will load it.")
    define_path("out", None, "File to write; for transformers a folder.")
    flags.DEFINE_integer("step", None, "Checkpoint of the run; the newest by default.")
    flags.DEFINE_list("results", [], "Folders of evaluations of this run, whose numbers go into the model card.")
    flags.DEFINE_string(
        "licence", None, "Licence of the weights, as model hubs name it; by default the imported file's."
    )


def _work() -> None:
    given = flags.FLAGS
    out = at(given.out)
    results = [expand(folder) for folder in given.results]
    write = export_detector if given.format in DETECTORS else export
    report = write(at(given.run), given.format, out, step=given.step, results=results, licence=given.licence)
    print(f"{out}: {summary(report)}")


if __name__ == "__main__":
    run_command("univip_jax.export", _define_flags, ("run", "format", "out"), _work, interrupted="nothing was written")
