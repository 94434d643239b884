"""Paths as typed, files that appear whole or not at all, folders with one owner, and names in messages."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from univip_jax.common import buckets, files
from univip_jax.common.errors import TransientError, UserError, shorten

ROOT = Path(__file__).parents[2]
# A process that holds a folder, says so, and waits for the end of its input.
HOLDER = """
import sys
from pathlib import Path
from univip_jax.common.files import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_appearing_replaces_the_file_only_where_nothing_raised(tmp_path):
    path = tmp_path / "a.json"
    files.write_whole(path, "first")
    with pytest.raises(KeyboardInterrupt), files.appearing(path) as tmp:
        tmp.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    with files.appearing(path) as tmp:
        tmp.write_text("second")
        assert path.read_text() == "first"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "second")]


def test_write_whole_on_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files.write_whole(tmp_path / "a.json", "first")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.json cannot be written \(No space left on device\): free space"):
        files.write_whole(tmp_path / "a.json", "second", sync=True)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "first")]


def test_sha256_of_a_file_is_the_published_digest_of_abc(tmp_path):
    files.write_whole(tmp_path / "a", b"abc")
    assert files.sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(("count", "words"), [(0, ""), (1, "a"), (3, "a, b, c"), (5, "a, b, c and 2 more")])
def test_shorten_gives_three_names_and_the_number_of_the_rest(count, words):
    assert shorten(list("abcde")[:count]) == words


@pytest.mark.parametrize(
    ("typed", "meant"),
    {
        "~": "/home/ada",
        "~/photos": "/home/ada/photos",
        "~/VOC2007:trainval": "/home/ada/VOC2007:trainval",
        "~root/x": "/root/x",
        "$DATA/x": "/data/my photos/x",
        "${DATA}2/$DATA": "/data/my photos2//data/my photos",
        "$TILDE/x": "/home/ada/y/x",  # as DATA="~/y" leaves it
        "runs/~/x": "runs/~/x",
        "a b #1 [x] 50% (ä) $ $(x)": "a b #1 [x] 50% (ä) $ $(x)",
        "imagenet2012:train[:10%]": "imagenet2012:train[:10%]",
        "random": "random",
        "": "",
        "$RECYCLE.BIN/a": "$RECYCLE.BIN/a",  # it is there
        "$UNSET_VOC:test": "$UNSET_VOC:test",
        "./~": "./~",
    }.items(),
)
def test_expand_gives_what_a_shell_would(typed, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in {"HOME": "/home/ada", "DATA": "/data/my photos", "TILDE": "~/y"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "$RECYCLE.BIN").mkdir()
    (tmp_path / "$UNSET_VOC").mkdir()
    assert files.expand(typed) == meant


@pytest.mark.parametrize(
    ("typed", "words"),
    {
        "$NO_SUCH/x": "$NO_SUCH/x: the variable NO_SUCH has no value: export NO_SUCH=",
        "a/${NO_SUCH}": "the variable NO_SUCH has no value",
        "$EMPTY/x": "the variable EMPTY has no value",  # else it is /x
        "W\udcff/x": "W?/x is not UTF-8: rename it",
        "http://a/runs": "http://a/runs is no folder or file of this machine: buckets are gs://NAME/... or s3://NAME/",
        "gs://": "gs:// names no bucket: give gs://NAME/...",
        "~nobody_of_this_name/x": "nobody_of_this_name is no user of this machine",
    }.items(),
)
def test_expand_refuses_what_has_no_value(typed, words, monkeypatch):
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(UserError) as refused:
        files.expand(typed)
    assert words in str(refused.value) and refused.value.exit_code == 2


@pytest.mark.parametrize(("scheme", "service"), {"gs": "Google Cloud Storage", "s3": "S3"}.items())
def test_expand_refuses_a_bucket_without_its_packages(scheme, service, monkeypatch):
    monkeypatch.setitem(sys.modules, "upath", None)
    buckets._client.cache_clear()
    with pytest.raises(UserError) as refused:
        files.expand(f"{scheme}://bucket/runs")
    line = f"{scheme}:// needs the clients of {service} (upath): pip install -r requirements-cloud.txt"
    assert str(refused.value) == line and refused.value.exit_code == 2


def test_expand_leaves_any_bytes_where_they_can_be_opened():
    assert files.expand("D\udcff", any_bytes=True) == "D\udcff"


def test_expand_refuses_the_home_folder_of_a_user_without_one(monkeypatch):
    monkeypatch.setenv("HOME", "/nonexistent")  # as `machine.before_imports` sets it
    with pytest.raises(UserError, match=r"~/x: HOME is not set: write the path out"):
        files.expand("~/x")


@pytest.fixture
def holder(tmp_path):
    """A process that holds `tmp_path/run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("stopped", [False, True])
def test_held_refuses_a_second_process_and_dies_with_the_first(tmp_path, holder, stopped):
    run = tmp_path / "run"
    if stopped:
        holder.send_signal(signal.SIGSTOP)
    with pytest.raises(TransientError) as refused, files.held(run):
        pass
    assert str(refused.value) == (
        f"{run} is in use: process {holder.pid} on {socket.gethostname()} works on it; wait for its end, stop it, or "
        "choose another folder"
    )
    assert [path.name for path in run.iterdir()] == ["lock"]  # the refused one touched nothing
    holder.kill()
    holder.wait()
    with files.held(run):
        assert (run / "lock").read_text().split()[1] == str(os.getpid())


def test_held_is_over_at_the_end_and_no_child_inherits_it(tmp_path):
    with files.held(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with files.held(tmp_path), pytest.raises(TransientError), files.held(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []
    finally:
        child.communicate(b"\n")


def test_held_makes_the_folder_and_removes_it_if_it_stays_empty(tmp_path):
    with files.held(tmp_path / "a/b"):
        assert (tmp_path / "a/b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with files.held(tmp_path / "a/b"):
        (tmp_path / "a/b/result").touch()
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["result"]


def test_held_names_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"file/run cannot be written \(Not a directory\)"),
        files.held(tmp_path / "file/run"),
    ):
        pass


def test_held_goes_on_where_there_are_no_locks(tmp_path, monkeypatch):
    def refuse(descriptor, kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with files.held(tmp_path), files.held(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_held_goes_on_where_nothing_can_be_written(tmp_path, monkeypatch):
    """A finished evaluation on a read-only disk only says that it is finished."""

    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.os, "open", refuse)
    with files.held(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_held_takes_the_left_over_of_another_user(tmp_path, monkeypatch):
    """The file may then be locked, but not written."""
    (tmp_path / "lock").write_text("process 1 on elsewhere\n")
    really = os.open

    def open_read_only(path, flags, mode=0o777):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Denied")
        return really(path, flags, mode)

    monkeypatch.setattr(files.os, "open", open_read_only)
    with files.held(tmp_path), pytest.raises(TransientError), files.held(tmp_path):
        pass
