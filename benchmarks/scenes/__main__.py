"""Composes scenes of labelled objects, prepares them like any data set, and packs all into one file.

    python -m benchmarks.scenes --train=imagenette128/train --test=imagenette128/val --out=DIR
        [--count=10000] [--affinity=0.7]
    python -m benchmarks.scenes --digits --out=DIR --count=4000     # needs no data set

DIR then has photos/, annotations.json (COCO), data/ (prepared; data/proposals.html shows 32 scenes with their boxes)
and scenes.npz for benchmarks.ablation. Scenes show photos of --train only. Each object is of its scene's class with
probability --affinity, else of any. The 4,000 test pictures of --digits are of 500 digits that no scene shows.
"""

import subprocess
import sys
from pathlib import Path

from absl import flags

from benchmarks.scenes.compose import SceneSpec, list_pair, photo_objects, write_scenes
from benchmarks.scenes.digits import digit_objects, write_labelled
from benchmarks.scenes.packed import pack
from univip_jax.common.cli import define_path
from univip_jax.common.cli import run as run_command

PACKED = "scenes.npz"


def _define_flags() -> None:
    define_path("train", None, "Folder with one folder per class: the objects of the scenes.")
    define_path("test", None, "Another such folder, whose photos no scene shows.")
    flags.DEFINE_bool("digits", False, "Scenes of scikit-learn's handwritten digits, instead of --train and --test.")
    define_path("out", None, "Output folder.")
    flags.DEFINE_integer("count", 10_000, "Number of scenes.", 1)
    flags.DEFINE_float("affinity", 0.7, "Probability that an object is of its scene's class; else it is of any.", 0, 1)
    flags.DEFINE_integer("seed", 0, "Seed of the contents of the scenes.", 0)
    flags.DEFINE_integer("min_side", None, "Smallest side of a proposal, px; 16 (scenes of 128), digits 18 (of 64).", 1)
    flags.DEFINE_integer("single_side", None, "Side of the labelled photos in scenes.npz, px; 48, digits 24.", 1)


def _check_flags() -> None:
    args = flags.FLAGS
    if args.digits and (args.train or args.test):
        raise flags.Error("--digits goes without --train and --test")
    if not args.digits and not (args.train and args.test):
        raise flags.Error("give --train=DIR --test=DIR, or --digits")


def _make() -> int:
    args, out = flags.FLAGS, Path(flags.FLAGS.out)
    if args.digits:
        min_side, single_side = args.min_side or 18, args.single_side or 24
        spec = SceneSpec(side=64, object_side=(20, 32), max_covered=0.1, affinity=args.affinity, suffix=".png")
        objects, (train, test) = digit_objects(), write_labelled(out / "singles", args.seed)
    else:
        min_side, single_side = args.min_side or 16, args.single_side or 48
        spec, train, test = SceneSpec(affinity=args.affinity), Path(args.train), Path(args.test)
        objects = photo_objects(list_pair(train, test)[0])  # both now: a wrong --test must fail before scenes are made
    annotations = write_scenes(objects, out, args.count, args.seed, spec)
    command = ["-m", "data_prep", f"--images={out / 'photos'}", f"--annotations={annotations}", f"--out={out / 'data'}"]
    command += [f"--min_side={min_side}", "--search_max_side=0"]
    if code := subprocess.run([sys.executable, *command]).returncode:
        return code
    pack(out / "data", train, test, single_side, out / PACKED)
    print(f"{out / PACKED}: {(out / PACKED).stat().st_size / 2**20:.1f} MiB\n"
          f"next: python -m benchmarks.ablation --scenes={out / PACKED} --workdir=DIR")  # fmt: skip
    return 0


if __name__ == "__main__":
    run_command(
        "benchmarks.scenes",
        _define_flags,
        ("out",),
        _make,
        check=_check_flags,
        interrupted="the same command starts again and keeps the prepared shards",
    )
