"""Killed at any moment, the same command ends with the bytes of an undisturbed run."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from data_prep import check, shards
from data_prep.inputs import Request
from data_prep.prepare import prepare

ROOT = Path(__file__).parents[2]
SETTINGS = shards.Settings("selective_search", 256, 16, 20)


def names(folder):
    return set(os.listdir(folder)) if folder.exists() else set()


def contents(folder):
    return {name: (folder / name).read_bytes() for name in names(folder)}


def test_killed_runs_resume_to_the_same_bytes(photo_folder, tmp_path):
    prepare(Request(tmp_path / "quiet", SETTINGS, [photo_folder], num_workers=1))
    flags = (f"--images={photo_folder}", f"--out={tmp_path / 'killed'}", "--num_workers=1")
    command = [sys.executable, "-m", "data_prep", *flags, "--min_side=16", "--max_boxes=20"]
    moments = random.Random(0)
    for _ in range(2):
        before = names(tmp_path / "killed")
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and names(tmp_path / "killed") == before:  # it is importing
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.wait()
    prepare(Request(tmp_path / "killed", SETTINGS, [photo_folder], num_workers=1))
    assert contents(tmp_path / "killed") == contents(tmp_path / "quiet")
    assert check.check_dataset(tmp_path / "killed", num_workers=1).problems == []
