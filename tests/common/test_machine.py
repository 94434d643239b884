"""What libraries take for granted: open files, a user's name, a home folder."""

import getpass
import os
import pwd
import resource
import tempfile

import pytest

from univip_jax.common import machine
from univip_jax.common.errors import UserError


@pytest.fixture
def limits(monkeypatch):
    """The limit of open files, which the test sets, as the kernel keeps it."""
    kept = [1024, 1024]

    def set_limits(_, new):
        if max(new) > kept[1] >= 0:
            raise ValueError("not allowed to raise maximum limit")
        kept[:] = new

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(kept))
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    return kept


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (256, resource.RLIM_INFINITY, 65536),
        (1024, 4096, 4096),
        (64, 64, 64),
        (1024, 10**9, 65536),
        (10**6, 10**6, 10**6),
    ],
)
def test_settle_raises_the_limit_of_open_files(limits, soft, hard, raised):
    limits[:] = soft, hard
    machine.settle()
    assert limits == [raised, hard]


def test_settle_names_the_limit_where_it_is_too_low(limits):
    limits[:] = 16, 16
    with pytest.raises(UserError, match=r"only 16 files may be open at once here, 32 are needed: ulimit -n 32"):
        machine.settle()


def test_settle_names_a_user_whom_the_system_does_not_know(monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    machine.settle()
    assert getpass.getuser() == "uid12345"
    assert os.path.expanduser("~/x") == "/nonexistent/x"  # no folder named ~


def test_settle_names_a_machine_without_a_temporary_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    with pytest.raises(SystemExit) as end:
        machine.settle()
    assert end.value.code == 1
    line = "error: no temporary folder can be written to: make one and export TMPDIR=FOLDER\n"
    assert capsys.readouterr().err == line


def test_settle_expands_the_folders_that_the_environment_names(monkeypatch):
    """`docker -e TFDS_DATA_DIR=~/tfds` has no shell to do it."""
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("TFDS_DATA_DIR", "~/tfds")
    machine.settle()
    assert os.environ["TFDS_DATA_DIR"] == "/home/ada/tfds"


def test_settle_leaves_the_names_that_are_there(monkeypatch):
    monkeypatch.setattr(os, "environ", before := {"HOME": "/home/ada", "USER": "ada"})
    machine.settle()
    assert before == {"HOME": "/home/ada", "USER": "ada"}
