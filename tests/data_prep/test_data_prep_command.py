"""The command line: exit codes and one clear line on stderr."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import __main__ as command
from tests.data_prep.command import exit_code
from tests.data_prep.painted import paint

ROOT = Path(__file__).parents[2]
# Not in requirements-beam.txt: Beam's workers prepare data without them.
WITHOUT = """
import runpy, sys
sys.modules |= dict.fromkeys(["jax", "jaxlib", "flax", "optax", "orbax", "ott", "dm_pix", "ml_collections"])
runpy.run_module("data_prep", run_name="__main__", alter_sys=True)
"""


def assert_one_line(stderr, *words):
    assert stderr.count("\n") == 1 and stderr.startswith("python -m data_prep: ")
    assert all(word in stderr for word in words), stderr


def test_command_prepares_without_jax_and_check_finds_a_flipped_byte(tmp_path, capsys):
    paint(0, 200, 160).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"damaged")
    (tmp_path / "c.cr2").write_bytes(b"")
    out = tmp_path / "out"
    flags = [f"--images={tmp_path}", f"--out={out}", "--num_workers=1", "--max_rejected=0.5"]
    arguments = [sys.executable, "-c", WITHOUT, *flags]
    process = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert "1 records" in process.stdout and "1 of 2 used, 1 rejected" in process.stdout
    assert "next: python main.py" in process.stdout
    assert "passed over 1 files of other formats: 1 .cr2" in process.stdout.splitlines()
    assert "photo/s" in process.stderr and "oneDNN" not in process.stderr

    assert exit_code(f"--check={out}", "--num_workers=1") == 0
    printed = capsys.readouterr().out
    assert "is whole: 1 records" in printed and "boxes per photo: " in printed
    shard = out / "photos-00000-of-00001.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert exit_code(f"--check={out}", "--num_workers=1") == 1
    assert shard.name in capsys.readouterr().err


def test_user_errors_are_one_line_and_exit_code_1(tmp_path, capsys):
    assert exit_code(f"--images={tmp_path}", f"--out={tmp_path}/out") == 1
    assert_one_line(capsys.readouterr().err, str(tmp_path), "no photos")
    assert exit_code(f"--check={tmp_path}") == 1
    assert_one_line(capsys.readouterr().err, "manifest.json", "python -m data_prep")


def test_check_of_an_unfinished_data_set_writes_its_page_and_exits_with_1(tmp_path, capsys):
    for seed in range(9):
        paint(seed).save(tmp_path / f"{seed}.jpg")
    flags = [f"--images={tmp_path}", f"--out={tmp_path}/out", "--num_workers=1"]
    assert exit_code(*flags, "--task_index=1", "--num_tasks=2") == 0
    assert "1 of 2 shards (8 photos) are left" in capsys.readouterr().out
    assert exit_code(f"--check={tmp_path}/out", "--num_workers=1") == 1
    printed = capsys.readouterr()
    assert "photos: 1 of 1 used" in printed.out and "unfinished: 1 of 2 shards are done" in printed.err
    assert os.listdir(tmp_path / "out").count("proposals.html") == 1


@pytest.mark.parametrize(
    ("error", "code", "words"), [(MemoryError, 1, "smaller --num_workers"), (KeyboardInterrupt, 130, "interrupted; ")]
)
def test_no_memory_and_ctrl_c_are_one_line(tmp_path, capsys, monkeypatch, error, code, words):
    def end(_):
        raise error

    monkeypatch.setattr(command, "prepare", end)
    assert exit_code(f"--images={tmp_path}", f"--out={tmp_path}/out") == code
    assert_one_line(capsys.readouterr().err, words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--images=DIR and --out=DIR"),
        (["--images=a", "--out=b", "--num_workers=0"], "num_workers=0"),
        (["--images=a", "--out=b", "--proposals=annotated"], "--annotations"),
        (["--images=a", "--out=b", "--source=beam"], "source=beam"),
        (["--dataset=coco/2017", "--out=b", "--source=tfds"], "--split=SPLIT"),
        (["--dataset=coco", "--split=train", "--images=a", "--out=b", "--source=tfds"], "--images does not go"),
        (["--images=a", "--split=train", "--out=b"], "need --source=tfds"),
        (["--images=a", "--out=b", "--proposals=import"], "--proposals_file=FILE"),
        (["--images=a", "--out=b", "--proposals_file=c"], "--proposals=import"),
        (["--images=a", "--out=b", "--max_rejected=10"], "max_rejected=10"),
        (["--images=a", "--check=b"], "--check=DIR is given alone"),
        (["a"], "unexpected argument 'a'"),
        (["--images=a", "--out=b", "--task_index=4", "--num_tasks=4"], "--task_index=4 must be below --num_tasks=4"),
        (["--images=a", "--out=http://b/c"], "http://b/c is no folder or file of this machine"),
        (["--images=a", "--out=b", "--runner=beam", "--num_tasks=2"], "shares the work by itself"),
    ],
)
def test_misused_flags_are_one_line_and_exit_code_2(flags, words, capsys):
    assert exit_code(*flags) == 2
    assert_one_line(capsys.readouterr().err, words)


def test_options_after_two_dashes_need_beam(capsys):
    assert exit_code("--images=a", "--out=b", beam_options=("--project=c",)) == 2
    assert_one_line(capsys.readouterr().err, "unexpected argument '--project=c'")
