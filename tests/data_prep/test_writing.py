"""Files that appear whole or not at all, and several processes on one folder."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import writing
from univip_jax.common.errors import UserError

ROOT = Path(__file__).parents[2]
LEFT_OVER = f"photos-00001-of-00003.tfrecord.{'0' * 32}.tmp"
# Another process that writes, says so, and waits for the end of its input.
WRITER = """
import sys
from pathlib import Path
from data_prep import writing
with writing.kept(Path(sys.argv[1]), shared=True), writing.temporary(Path(sys.argv[1]) / "a") as tmp:
    print(tmp.name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """A process at work on `tmp_path`, and the name of its temporary file."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    yield process, process.stdout.readline().decode().strip()
    process.kill()
    process.communicate()


def test_a_file_appears_only_when_all_went_well(tmp_path):
    path = tmp_path / "a.json"
    writing.write_whole(path, "first")
    with pytest.raises(KeyboardInterrupt), writing.appearing(path) as tmp:
        tmp.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    with writing.appearing(path) as tmp:
        tmp.write_text("second")
        assert path.read_text() == "first"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "second")]


def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writing.write_whole(tmp_path / "a.json", "first")
    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.json cannot be written \(No space left on device\): free space"):
        writing.write_whole(tmp_path / "a.json", "second")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "first")]


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path, writer):
    process, name = writer
    (tmp_path / LEFT_OVER).write_bytes(b"half a shard")
    (tmp_path / "mine.tmp").write_bytes(b"not ours")
    writing.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name, "mine.tmp"}
    process.kill()
    process.wait()
    writing.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.tmp"]


def test_a_folder_is_kept_for_one_command_or_for_several_that_share_it(tmp_path, writer):
    with writing.kept(tmp_path, shared=True):
        pass
    with pytest.raises(UserError, match=r"another data_prep is at work.*--task_index"), writing.kept(tmp_path, False):
        pass
    process, _ = writer
    process.kill()
    process.wait()
    with writing.kept(tmp_path, shared=False):
        pass
