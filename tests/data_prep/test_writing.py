"""Several processes on one folder."""

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
from univip_jax.common.files import temporary
with writing.locked(Path(sys.argv[1]), shared=True), temporary(Path(sys.argv[1]) / "a") as tmp:
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


def test_remove_leftovers_keeps_the_files_of_living_writers(tmp_path, writer):
    process, name = writer
    (tmp_path / LEFT_OVER).write_bytes(b"half a shard")
    (tmp_path / "mine.tmp").write_bytes(b"not ours")
    writing.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name, "mine.tmp"}
    process.kill()
    process.wait()
    writing.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.tmp"]


def test_locked_admits_one_command_or_several_that_share_the_folder(tmp_path, writer):
    with writing.locked(tmp_path, shared=True):
        pass
    with pytest.raises(UserError, match=r"in use: another data_prep.*--task_index"), writing.locked(tmp_path, False):
        pass
    process, _ = writer
    process.kill()
    process.wait()
    with writing.locked(tmp_path, shared=False):
        pass
