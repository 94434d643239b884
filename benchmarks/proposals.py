"""Speed and recall of selective search for several sizes of its copy and both modes.

python benchmarks/proposals.py --images=DIR --annotations=COCO.json [--num_photos=N] [--settings=256,320,256:quality]

Runs `python -m data_prep` with one worker for each setting and prints a row of a Markdown table. The time of a command
over a single photo, its start-up, is subtracted. Other load on the machine changes processor time only through shared
caches and hyper-threads.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Numbers of photos in COCO train2017, COCO+ (with unlabeled2017) and ImageNet's training set.
COLLECTIONS = {"COCO": 118_287, "COCO+": 241_690, "ImageNet": 1_281_167}


def prepare(photos: Path, out: Path, annotations: Path, flags: list[str]) -> tuple[float, dict]:
    """Processor seconds of the command, and its manifest."""
    command = [sys.executable, "-m", "data_prep", f"--images={photos}", f"--out={out}", f"--annotations={annotations}"]
    process = subprocess.Popen([*command, "--num_workers=1", *flags], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(process.args)} failed")
    return usage.ru_utime + usage.ru_stime, json.loads((out / "manifest.json").read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--num_photos", type=int, default=128)
    parser.add_argument("--settings", default="192,224,256,320,400,480,0")
    args = parser.parse_args()
    print("| search_max_side, mode | photos | s per photo | photos/s/core | boxes per photo | recall | core-hours: "
          f"{', '.join(COLLECTIONS)} |")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        one, photos = Path(scratch) / "one", Path(scratch) / "photos"
        for folder, number in ((one, 1), (photos, args.num_photos)):
            folder.mkdir()
            for path in sorted(args.images.iterdir())[:number]:
                (folder / path.name).symlink_to(path.resolve())
        for setting in args.settings.split(","):
            side, _, mode = setting.partition(":")
            flags = [f"--search_max_side={side}", f"--search_mode={mode or 'fast'}"]
            start, _ = prepare(one, Path(scratch) / f"one_{setting}", args.annotations, flags)
            seconds, manifest = prepare(photos, Path(scratch) / f"out_{setting}", args.annotations, flags)
            stats = manifest["proposals"]
            per_photo = (seconds - start) / (manifest["num_records"] - 1)
            hours = ", ".join(f"{number * per_photo / 3600:.0f}" for number in COLLECTIONS.values())
            print(
                f"| {side}, {mode or 'fast'} | {manifest['num_records']} | {per_photo:.3f} | {1 / per_photo:.2f} | "
                f"{stats['mean']:.1f} | {stats['num_found']} of {stats['num_objects']} = "
                f"{stats['recall']:.3f} | {hours} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
