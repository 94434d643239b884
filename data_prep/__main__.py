"""Prepares photos for training: selective search, filters, TFRecord shards, sidecars and a manifest.

python -m data_prep --images=DIR|ZIP|TAR [--images=...] --out=DIR [--annotations=COCO.json]
python -m data_prep --source=tfds --dataset=coco/2017 --split=train --out=DIR
python -m data_prep --check=DIR

Run the same command again after an interruption: only unfinished shards are redone.
On many machines: --task_index=I --num_tasks=N, or --runner=beam with Beam's own options after a bare `--`.
"""

import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from absl import flags

from data_prep import check, page
from data_prep import manifest as manifests
from data_prep.inputs import Request
from data_prep.prepare import prepare
from data_prep.record import Settings
from univip_jax.common import cli
from univip_jax.common.errors import UserError
from univip_jax.common.files import at
from univip_jax.data.host import available_cores


def _define() -> None:
    flags.DEFINE_enum("source", "images", ["images", "tfds"], "Where the photos come from: files, or a TFDS data set.")
    cli.define_path("images", [], "Folder with photos in it or below, zip or tar file.", any_bytes=True)
    flags.DEFINE_string("dataset", None, "TFDS's name, as coco/2017; TFDS_DATA_DIR is the folder of its data.")
    flags.DEFINE_string("split", None, "TFDS's split, as train or train[:10%].")
    cli.define_path("out", None, "Folder for the data set; created if missing.")
    cli.define_path("annotations", [], "COCO instances json: boxes, categories, crowds, polygons are stored.")
    kinds = ["selective_search", "naive", "annotated", "none", "import"]
    flags.DEFINE_enum("proposals", kinds[0], kinds, "Where boxes come from; import: from --proposals_file.")
    flags.DEFINE_integer("search_max_side", 256, "Long side of the copy that is searched, in px; 0: full size.", 0)
    flags.DEFINE_enum("search_mode", "fast", ["fast", "quality"], "quality: more boxes, several times slower.")
    cli.define_path("proposals_file", [], "COCO results or ORL's json of boxes, one per --annotations.")
    flags.DEFINE_integer("max_side", 0, "Longer photos become JPEGs with this long side, in px; 0: no limit.", 0)
    flags.DEFINE_integer("max_megapixels", 100, "Larger photos are rejected; --max_side shrinks a JPEG before.", 1)
    flags.DEFINE_float("max_rejected", 0.1, "Share of photos that may be unusable; above it, the exit code is 1.", 0, 1)
    flags.DEFINE_integer("min_side", 64, "Smallest side of a box, in px of the photo.", 1)
    flags.DEFINE_integer("max_boxes", 100, "Most boxes per photo.", 1)
    flags.DEFINE_integer("num_workers", None, "Processes; all cores by default.", 1)
    flags.DEFINE_enum("runner", "local", ["local", "beam"], "Processes on this machine, or Apache Beam.")
    flags.DEFINE_integer("task_index", 0, "Which part of the shards to do, of --num_tasks; counted from 0.", 0)
    flags.DEFINE_integer("num_tasks", 1, "Tasks of a job array that share one --out.", 1)
    cli.define_path("check", None, "Verify the data set in this folder instead of preparing one.")


def _check_flags(beam_options: Sequence[str]) -> None:
    """Raises flags.Error for flags that do not go together."""
    given = flags.FLAGS
    if beam_options and given.runner != "beam":
        raise flags.Error(f"unexpected argument {beam_options[0]!r}: options after -- need --runner=beam")
    if given.check is not None:
        if given.images or given.out or given.dataset:
            raise flags.Error("--check=DIR is given alone, without --images, --dataset and --out")
        return
    if given.source == "tfds":
        if not (given.dataset and given.split and given.out):
            raise flags.Error("--source=tfds needs --dataset=NAME, --split=SPLIT and --out=DIR")
        for name in ("images", "annotations", "proposals_file"):
            if given[name].value:
                raise flags.Error(f"--{name} does not go with --source=tfds: its photos have no file names")
    elif given.dataset or given.split:
        raise flags.Error("--dataset and --split need --source=tfds")
    elif not (given.images and given.out):
        raise flags.Error("give --images=DIR and --out=DIR, or --check=DIR")
    elif given.proposals == "annotated" and not given.annotations:
        raise flags.Error("--proposals=annotated needs --annotations=COCO.json")
    if (given.proposals == "import") != bool(given.proposals_file):
        raise flags.Error("--proposals=import and --proposals_file=FILE need each other")
    if given.task_index >= given.num_tasks:
        raise flags.Error(f"--task_index={given.task_index} must be below --num_tasks={given.num_tasks}")
    if given.runner == "beam" and given.num_tasks > 1:
        raise flags.Error("--runner=beam shares the work by itself: leave --num_tasks out")
    if given.runner == "beam" and find_spec("apache_beam") is None:
        raise flags.Error("--runner=beam needs pip install -r requirements-beam.txt, in an environment of its own")


def _run(beam_options: Sequence[str]) -> int:
    given = flags.FLAGS.flag_values_dict()
    try:
        if given["check"] is not None:
            return _check(at(given["check"]), given["num_workers"] or available_cores())
        settings = Settings(**{name: given[name] for name in Settings._fields})
        named = {name: given[name] for name in Request._fields if name in given}
        beam = beam_options if given["runner"] == "beam" else None
        print(prepare(Request(**named | {"out": at(given["out"]), "settings": settings, "beam_options": beam})))
    except MemoryError as error:
        raise UserError("out of memory: run again with a smaller --num_workers") from error
    return 0


def _check(root: Path, num_workers: int) -> int:
    manifest, problems, progress = check.check_dataset(root, num_workers)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise UserError(
            f"{root}: {len(problems)} problems; delete the files named above and run the data_prep command of this "
            "data set again: only they are redone"
        )
    summary = manifests.summary(manifest)
    print("\n".join(summary))
    if progress:
        page.write_page(root, manifest, summary)
        raise UserError(f"{root} is {progress}: run its data_prep command again")
    print(f"{root} is whole: {manifest['num_records']} records in {len(manifest['shards'])} shards")
    return 0


if __name__ == "__main__":
    _end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    sys.argv, _beam_options = sys.argv[:_end], sys.argv[_end + 1 :]
    cli.run(
        "data_prep",
        _define,
        [],
        partial(_run, _beam_options),
        check=partial(_check_flags, _beam_options),
        interrupted="the same command resumes after the finished shards",
    )
