"""Composes scenes from labelled photos, prepares them like any data set, and packs all into one file.

    python -m benchmarks.scenes --train=imagenette128/train --test=imagenette128/val --out=DIR [--count=10000]

DIR then has photos/, annotations.json (COCO), data/ (prepared; data/proposals.html shows 32 scenes with their boxes)
and scenes.npz for benchmarks.ablation. Scenes show photos of --train only.
"""

import subprocess
import sys
from pathlib import Path

from absl import flags

from benchmarks.scenes.compose import SceneSpec, list_pair, write_scenes
from benchmarks.scenes.packed import pack
from univip_jax.common.cli import run as run_command

PACKED = "scenes.npz"


def _define_flags() -> None:
    flags.DEFINE_string("train", None, "Folder with one folder per class: the objects of the scenes.")
    flags.DEFINE_string("test", None, "Another such folder, whose photos no scene shows.")
    flags.DEFINE_string("out", None, "Output folder.")
    flags.DEFINE_integer("count", 10_000, "Number of scenes.", 1)
    flags.DEFINE_integer("seed", 0, "Seed of the contents of the scenes.", 0)
    flags.DEFINE_integer("min_side", 16, "Smallest side of a proposal, in px of the 128 px scene.", 1)
    flags.DEFINE_integer("single_side", 48, "Side of the labelled photos in scenes.npz, px.", 1)


def _make() -> int:
    args = flags.FLAGS
    out, train, test = Path(args.out), Path(args.train), Path(args.test)
    photos, _ = list_pair(train, test)  # both now: a wrong --test must fail before the scenes are made
    annotations = write_scenes(photos, out, args.count, args.seed, SceneSpec())
    command = ["-m", "data_prep", f"--images={out / 'photos'}", f"--annotations={annotations}", f"--out={out / 'data'}"]
    command += [f"--min_side={args.min_side}", "--search_max_side=0"]
    if code := subprocess.run([sys.executable, *command]).returncode:
        return code
    pack(out / "data", train, test, args.single_side, out / PACKED)
    print(f"{out / PACKED}: {(out / PACKED).stat().st_size / 2**20:.1f} MiB\n"
          f"next: python -m benchmarks.ablation --scenes={out / PACKED} --workdir=DIR")  # fmt: skip
    return 0


if __name__ == "__main__":
    run_command(
        "benchmarks.scenes",
        _define_flags,
        ("train", "test", "out"),
        _make,
        interrupted="the same command starts again and keeps the prepared shards",
    )
