"""Prepares photos for training: selective search, filters, TFRecord shards, sidecars and a manifest.

python -m data_prep --images=DIR|ZIP|TAR [--images=...] --out=DIR [--annotations=COCO.json]
python -m data_prep --source=tfds --dataset=coco/2017 --split=train --out=DIR
python -m data_prep --check=DIR

Run the same command again after an interruption: only unfinished shards are redone.
On many machines: --task_index=I --num_tasks=N, or --runner=beam with Beam's own options after a bare `--`.
"""

import signal
import sys
from importlib.util import find_spec
from pathlib import Path

from absl import app, flags

from data_prep import check, page, prepare, shards
from data_prep import manifest as manifests
from data_prep.inputs import Inputs
from univip_jax.common.errors import UserError
from univip_jax.data.host import available_cores

_SOURCE = flags.DEFINE_enum(
    "source", "images", ["images", "tfds"], "Where the photos come from: files, or a data set of TFDS."
)
_IMAGES = flags.DEFINE_multi_string(
    "images",
    None,
    "Folder with photos (folders in it are searched too), zip or tar file; several: the flag several times.",
)
_DATASET = flags.DEFINE_string("dataset", None, "TFDS's name, as coco/2017; TFDS_DATA_DIR says where its data lie.")
_SPLIT = flags.DEFINE_string("split", None, "TFDS's split, as train or train[:10%].")
_OUT = flags.DEFINE_string("out", None, "Folder for the data set; created if missing.")
_ANNOTATIONS = flags.DEFINE_multi_string(
    "annotations", None, "COCO instances json, or several; boxes, categories, crowds and polygons are stored."
)
_SEARCH_MAX_SIDE = flags.DEFINE_integer(
    "search_max_side",
    256,
    "Selective search runs on a copy of at most this long side, in px; 0: full size.",
    0,
)
_PROPOSALS = flags.DEFINE_enum(
    "proposals",
    "selective_search",
    ["selective_search", "naive", "annotated", "none", "import"],
    "Where boxes come from; import: from --proposals_file.",
)
_SEARCH_MODE = flags.DEFINE_enum(
    "search_mode", "fast", ["fast", "quality"], "Of selective search; quality: more boxes, several times slower."
)
_PROPOSALS_FILE = flags.DEFINE_multi_string(
    "proposals_file",
    None,
    "Boxes of others, COCO results json or ORL's; several: as many --annotations in the same order.",
)
_MAX_SIDE = flags.DEFINE_integer(
    "max_side", 0, "A photo with a longer side is stored as a JPEG of that long side, in px; 0: all are kept.", 0
)
_MAX_REJECTED = flags.DEFINE_float(
    "max_rejected", 0.1, "Share of the photos that may be unusable; with more, the exit code is 1.", 0, 1
)
_MIN_SIDE = flags.DEFINE_integer("min_side", 64, "Smallest side of a kept box, in px of the photo.", 1)
_MAX_BOXES = flags.DEFINE_integer("max_boxes", 100, "Boxes kept for a photo, at most.", 1)
_NUM_WORKERS = flags.DEFINE_integer("num_workers", None, "Processes; all cores by default.", 1)
_RUNNER = flags.DEFINE_enum(
    "runner", "local", ["local", "beam"], "What runs the shards: processes on this machine, or Apache Beam."
)
_TASK_INDEX = flags.DEFINE_integer("task_index", 0, "Which part of the shards to do, of --num_tasks; from 0 on.", 0)
_NUM_TASKS = flags.DEFINE_integer("num_tasks", 1, "Tasks of a job array that share one --out.", 1)
_CHECK = flags.DEFINE_string("check", None, "Verify the data set in this folder instead of preparing one.")


def _parse(argv: list[str]) -> list[str]:
    """Flags, with misuse as one line and exit code 2."""
    try:
        rest = flags.FLAGS(argv)[1:]
        if rest and not (_RUNNER.value == "beam" and "--" in argv):
            raise flags.Error(f"unexpected argument {rest[0]!r}: flags look like --images=DIR")
        if _CHECK.value is None:
            _check_request()
        elif _IMAGES.value or _OUT.value or _DATASET.value:
            raise flags.Error("--check=DIR is given alone, without --images, --dataset and --out")
    except flags.Error as error:
        print(f"python -m data_prep: {error}; see --help", file=sys.stderr)
        sys.exit(2)
    return [argv[0], *rest]


def _check_request() -> None:
    """Raises flags.Error for flags that do not go together."""
    for path in (_OUT.value or "", *(_IMAGES.value or ())):
        if "://" in path:
            raise flags.Error(f"{path} is no folder: mount the bucket, or copy the photos to a disk")
    if _SOURCE.value == "tfds":
        if not (_DATASET.value and _SPLIT.value and _OUT.value):
            raise flags.Error("--source=tfds needs --dataset=NAME, --split=SPLIT and --out=DIR")
        for flag in (_IMAGES, _ANNOTATIONS, _PROPOSALS_FILE):
            if flag.value:
                raise flags.Error(f"--{flag.name} does not go with --source=tfds: its photos have no file names")
    elif _DATASET.value or _SPLIT.value:
        raise flags.Error("--dataset and --split need --source=tfds")
    elif not (_IMAGES.value and _OUT.value):
        raise flags.Error("give --images=DIR and --out=DIR, or --check=DIR")
    elif _PROPOSALS.value == "annotated" and not _ANNOTATIONS.value:
        raise flags.Error("--proposals=annotated needs --annotations=COCO.json")
    if (_PROPOSALS.value == "import") != bool(_PROPOSALS_FILE.value):
        raise flags.Error("--proposals=import and --proposals_file=FILE need each other")
    if _TASK_INDEX.value >= _NUM_TASKS.value:
        raise flags.Error(f"--task_index={_TASK_INDEX.value} must be below --num_tasks={_NUM_TASKS.value}")
    if _RUNNER.value == "beam" and _NUM_TASKS.value > 1:
        raise flags.Error("--runner=beam shares the work by itself: leave --num_tasks out")
    if _RUNNER.value == "beam" and find_spec("apache_beam") is None:
        raise flags.Error("--runner=beam needs pip install -r requirements-beam.txt, in an environment of its own")


def main(argv: list[str]) -> None:
    """Runs the command; a UserError becomes one line on stderr and exit code 1."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    try:
        sys.exit(_check() if _CHECK.value is not None else _prepare(argv[1:]))
    except UserError as error:
        print(f"python -m data_prep: {error}", file=sys.stderr)
        sys.exit(1)
    except MemoryError:
        print("python -m data_prep: out of memory: run again with a smaller --num_workers", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(
            "python -m data_prep: interrupted; the same command goes on from the finished shards",
            file=sys.stderr,
        )
        sys.exit(130)


def _prepare(beam_options: list[str]) -> int:
    settings = shards.Settings(
        _PROPOSALS.value,
        _SEARCH_MAX_SIDE.value,
        _MIN_SIDE.value,
        _MAX_BOXES.value,
        _SEARCH_MODE.value,
        _MAX_SIDE.value,
    )
    files = (tuple(map(Path, flag.value or ())) for flag in (_IMAGES, _ANNOTATIONS, _PROPOSALS_FILE))
    request = prepare.Request(
        inputs=Inputs(*files, _DATASET.value or "", _SPLIT.value or ""),
        out=Path(_OUT.value),
        settings=settings,
        num_workers=_NUM_WORKERS.value or available_cores(),
        max_rejected=_MAX_REJECTED.value,
        task_index=_TASK_INDEX.value,
        num_tasks=_NUM_TASKS.value,
        beam_options=tuple(beam_options) if _RUNNER.value == "beam" else None,
    )
    print(prepare.prepare(request))
    return 0


def _check() -> int:
    root = Path(_CHECK.value)
    manifest, problems, left = check.check_dataset(root, _NUM_WORKERS.value or available_cores())
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(
            f"{root}: {len(problems)} problems; delete the files named above and run the data_prep command "
            "that made them again: only they are redone",
            file=sys.stderr,
        )
        return 1
    said = manifests.verdict_lines(manifest)
    print("\n".join(said))
    if left:
        page.write_page(root, manifest, said)
        print(f"{root} is {left}: run the command that makes it again", file=sys.stderr)
        return 1
    print(f"{root} is whole: {manifest['num_records']} records in {len(manifest['shards'])} shards")
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
