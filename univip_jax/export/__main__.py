"""Exports a run's backbone, and proves by the consumer's own outputs that it is the same.

python -m univip_jax.export --run=runs/coco --format=torchvision --out=coco_r50.safetensors
"""

import os

# XLA reads it when it is imported; its start-up notes hide what a user needs to read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from absl import app, flags, logging

from univip_jax.config import CONFIG
from univip_jax.detectron2.configs import write_configs
from univip_jax.errors import UserError
from univip_jax.evaluate.features import RESULTS, Encoder, load_encoder
from univip_jax.export.card import write_card
from univip_jax.export.formats import WRITERS, Metadata, check_format, depth_of
from univip_jax.export.parity import TOLERANCE, compare


def describe(encoder: Encoder, run: Path, results: list[str], licence: str) -> Metadata:
    """What is written into the file and its card: text by name.

    Raises:
      UserError: a folder of `results` is no evaluation, or one of another run or step.
    """
    config = run / CONFIG if run.is_dir() else run
    metadata = {
        "producer": "univip_jax",
        "run": run.resolve().name,
        "step": str(encoder.step),
        "config_sha256": hashlib.sha256(config.read_bytes()).hexdigest(),
        "backbone": encoder.backbone.variant,
        "width": f"{encoder.backbone.width:g}",
        "stem": encoder.backbone.stem,
        "image_size": str(encoder.image_size),
        "licence": licence,
    }
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


def export(run: Path, kind: str, out: Path, *, step: int | None, results: list[str], licence: str) -> dict:
    """Writes OUT, its model card and `OUT.parity.json`; nothing of them where the proof fails. Returns the report.

    Raises:
      UserError: no such run, a format that does not suit it, OUT exists, or the consumer computes something else.
    """
    if out.exists():
        raise UserError(f"--out={out} exists; remove it, or choose another name")
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
            path.with_name(f"{out.name}.parity.json").write_text(json.dumps(report, indent=2) + "\n")
            for file in sorted(Path(made).iterdir(), key=lambda file: file == path):
                os.replace(file, out.parent / file.name)
        if kind == "detectron2":
            folder = out.with_name(f"{out.stem}_configs")
            write_configs(folder, str(out.resolve()), depth=depth_of(encoder), width=encoder.backbone.width)
    except OSError as error:
        raise UserError(
            f"--out={out} cannot be written ({error.strerror}): free space or rights, then again"
        ) from error
    return report


def _define_flags() -> None:
    """Not when this module is imported: other commands have flags of the same names."""
    flags.DEFINE_string("run", None, "Folder of a pre-training run, or a file of weights.", required=True)
    flags.DEFINE_enum("format", None, list(WRITERS), "Who will load it.", required=True)
    flags.DEFINE_string("out", None, "File to write; for transformers a folder.", required=True)
    flags.DEFINE_integer("step", None, "Checkpoint of the run; the newest by default.")
    flags.DEFINE_list("results", [], "Folders of evaluations of this run, whose numbers go into the model card.")
    flags.DEFINE_string("licence", "other", "Of the weights, as model hubs name it; your photos' terms decide.")


def main(_: list[str]) -> None:
    """Runs the command; a UserError becomes one line on stderr and exit code 1."""
    logging.set_verbosity(logging.ERROR)  # Orbax and the exporters tell their own steps
    given = flags.FLAGS
    out = Path(given.out)
    try:
        report = export(
            Path(given.run), given.format, out, step=given.step, results=given.results, licence=given.licence
        )
    except UserError as error:
        print(f"python -m univip_jax.export: {error}", file=sys.stderr)
        sys.exit(1)
    consumers = ", ".join(f"{name} {version}" for name, version in report["consumer"].items())
    print(f"{out}: {consumers} compute the same from it to {report['largest_difference']:.1e} (allowed {TOLERANCE:g})")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
