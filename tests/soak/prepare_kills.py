"""Kills `python -m data_prep` at random moments and compares with an undisturbed run.

python tests/soak/prepare_kills.py --images=DIR [--num_photos=100] [--num_kills=20] [--seed=0] [flags of data_prep]

Each kill is a SIGKILL to the command and its workers, at a moment drawn evenly from half the time that the undisturbed
run took after its first file; the same command then goes on. A data set that gets finished before the kills are used up
is compared, then begun anew. Ends with exit code 1 where a byte differs or `--check` objects.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(photos: Path, out: Path, flags: list[str]) -> subprocess.Popen:
    """The command in a process group of its own, so that a kill reaches its workers too."""
    command = [sys.executable, "-m", "data_prep", f"--images={photos}", f"--out={out}", *flags]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **quiet)


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.exists() else set()


def wait_for_work(process: subprocess.Popen, out: Path) -> None:
    """Until a file of `out` appears or goes: before, the command only imports."""
    before = names(out)
    while process.poll() is None and names(out) == before:
        time.sleep(0.01)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def compare(killed: Path, quiet: Path) -> None:
    """Exits where the folders differ, or `--check` finds something."""
    if contents(killed) != contents(quiet):
        sys.exit(f"{killed} differs from {quiet}")
    subprocess.run([sys.executable, "-m", "data_prep", f"--check={killed}"], cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--num_photos", type=int, default=100)
    parser.add_argument("--num_kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args, flags = parser.parse_known_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        photos, quiet, killed = (Path(scratch) / name for name in ("photos", "quiet", "killed"))
        photos.mkdir()
        for path in sorted(args.images.iterdir())[: args.num_photos]:
            (photos / path.name).symlink_to(path.resolve())
        process = start(photos, quiet, flags)
        wait_for_work(process, quiet)
        started = time.monotonic()
        process.wait()
        seconds = time.monotonic() - started
        kills = left = sets = 0
        while kills < args.num_kills:
            process = start(photos, killed, flags)
            wait_for_work(process, killed)
            time.sleep(moments.uniform(0, seconds / 2))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                left += any(name.endswith(".tmp") for name in names(killed))
            else:
                compare(killed, quiet)
                sets += 1
                shutil.rmtree(killed)
        start(photos, killed, flags).wait()
        compare(killed, quiet)
    print(f"{kills} kills, {left} left half-written files; {sets + 1} data sets, each of the undisturbed run's bytes")


if __name__ == "__main__":
    main()
