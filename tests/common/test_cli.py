"""One map from exceptions to a line and an exit code, for all commands."""

import asyncio
import errno
import gc
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from absl import flags
from absl.testing import flagsaver

from univip_jax.common import cli
from univip_jax.common.errors import TransientError, UserError


@pytest.fixture(autouse=True)
def process_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such folder"), 1, "error: no such folder"),
        (TransientError("try again"), 75, "error: try again"),
        (KeyboardInterrupt(), 130, "error: interrupted; run it again"),
        (MemoryError(), 1, "error: out of memory: lower the batch size"),
        (RuntimeError("RESOURCE_EXHAUSTED: 3 GiB"), 1, "error: out of memory: lower the batch size"),
        (OSError(errno.EMFILE, "Too many open files", "/a"), 1, "error: Too many open files: run ulimit -n 4096, then"),
        (UserError("/a: [Errno 24] Too many open files; free space"), 1, "error: Too many open files: run ulimit -n"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "/long"),
            1,
            "error: /long: File name too long: give another",
        ),
        (OSError(errno.ENOSPC, "No space"), 1, "error: a file in {folder}: No space; make it writable"),
        (OSError(errno.EACCES, "Denied", "{folder}/config.json"), 1, "error: {folder}/config.json: Denied; make it"),
    ],
)
def test_call_turns_what_a_user_can_mend_into_one_line(error, code, line, tmp_path, capsys):
    if isinstance(error, OSError) and error.filename and "{" in error.filename:
        error.filename = error.filename.format(folder=tmp_path)

    def work():
        raise error

    with pytest.raises(SystemExit) as end:
        cli.call("error", work, interrupted="run it again", folder=tmp_path)
    stderr = capsys.readouterr().err
    assert end.value.code == code
    assert stderr.startswith(line.format(folder=tmp_path)) and stderr.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("unforeseen"), OSError(errno.EACCES, "Denied", "/elsewhere")])
def test_call_shows_a_defect_of_ours_with_its_traceback(error, tmp_path, capsys):
    def work():
        raise error

    with pytest.raises(SystemExit) as end:
        cli.call("error", work, interrupted="", folder=tmp_path)
    assert end.value.code == cli.SOFTWARE_ERROR == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("{} | true; exit ${{PIPESTATUS[0]}}", 0, ""),
        ("{} > /dev/full", 1, "error: the output cannot be written (No space left on device), but the work is done"),
        ("PYTHONIOENCODING=ascii {} | grep -q 'u0416'", 0, ""),
        ("{} fails > /dev/full", 1, "error: no such folder"),
        ("{} fails | true; exit ${{PIPESTATUS[0]}}", 1, "error: no such folder"),
    ],
)
def test_an_output_that_cannot_be_written_is_no_traceback(shell, code, said, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\nfrom univip_jax.common import cli, errors\n"
        "def work():\n"
        "    print('\\u0416')\n    time.sleep(0.5)\n"
        "    if sys.argv[1:]:\n        raise errors.UserError('no such folder')\n"
        "cli.call('error', work, interrupted='')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = ["bash", "-c", shell.format(f"{sys.executable} {program}")]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment | {"PYTHONPATH": os.getcwd()})
    assert (ended.returncode, ended.stderr.strip()) == (code, said)


def test_call_exits_with_the_code_of_the_work():
    with pytest.raises(SystemExit) as end:
        cli.call("error", lambda: 3, interrupted="")
    assert end.value.code == 3


@pytest.mark.parametrize(("home", "heard"), [("lib/orbax/checkpoint/serialization.py", False), ("ours.py", True)])
def test_quiet_leaves_out_the_other_leaves_of_a_failed_save(home, heard, caplog):
    """Orbax raises the first failure of its tasks; asyncio logs the others when they are collected, at any time."""
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        for known in list(logger.filters):
            logger.removeFilter(known)
    cli.quiet()
    found = {}
    exec(compile("async def write(): raise ValueError('disk full')", home, "exec"), found)

    async def save():
        tasks = [asyncio.ensure_future(found["write"]()) for _ in range(2)]
        await asyncio.sleep(0)  # both fail
        await tasks[0]

    with pytest.raises(ValueError, match="disk full"):
        asyncio.run(save())
    gc.collect()
    assert ("never retrieved" in caplog.text) == heard


def test_quiet_leaves_out_tensorstores_message_after_a_failed_read(monkeypatch):
    """Whether it is printed, and how often, is a race of its threads: no damage brings it about each time."""
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: printed.append(str(unraisable.exc_value)))
    cli.quiet()
    cli.quiet()
    for message in ("Event loop is closed", "another"):
        sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(message)))
    assert printed == ["another"]


@pytest.mark.parametrize(("default", "value"), [(None, "/home/ada/x"), ([], ["/home/ada/x"])])
def test_define_path_expands_what_is_typed(default, value, monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/ada")
    cli.define_path("place", default, "A folder.")
    try:
        with flagsaver.flagsaver():
            parse = cli.parse_flags("x", ())
            parse(["x", "--place=~/x"])
            assert flags.FLAGS.place == value
            with pytest.raises(SystemExit) as end:
                parse(["x", "--place=$NO_SUCH/x"])
    finally:
        delattr(flags.FLAGS, "place")
    assert end.value.code == 2
    assert "flag --place=$NO_SUCH/x: $NO_SUCH/x: the variable NO_SUCH has no value" in capsys.readouterr().err
