"""When the supervisor restarts, how long it waits, what counts as progress, and the command lines that it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
from absl.testing import flagsaver

from univip_jax.run.supervise import Policy, parse, saved_work, verdict, workdir

POLICY = Policy(max_restarts=3, backoff=2.0, grace=120.0)


@pytest.mark.parametrize(
    ("code", "restarts", "progressed", "restart", "pause"),
    [
        (75, 0, False, 1, 2.0),
        (70, 1, False, 2, 4.0),
        (-9, 2, False, 3, 8.0),
        (-9, 3, False, 0, 0.0),  # the fourth in a row
        (-9, 3, True, 1, 2.0),
        (1, 0, False, 0, 0.0),
        (2, 0, True, 0, 0.0),
    ],
)
def test_verdict_restarts_after_all_but_mistakes_while_there_is_progress(code, restarts, progressed, restart, pause):
    assert verdict(code, restarts, progressed, POLICY)[:2] == (restart, pause)


def test_verdict_pause_doubles_up_to_five_minutes():
    policy = Policy(max_restarts=10**6, backoff=1.0, grace=0.0)
    pauses = [verdict(75, restarts, False, policy)[1] for restarts in (*range(10), 10**5)]
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_verdict_without_restarts_gives_up_even_after_progress():
    assert verdict(75, 0, True, Policy(0, 1.0, 1.0)) == (
        0,
        0.0,
        "gave up after 0 restarts without progress: fix the cause, then run the command again",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "-- and the command are missing, as in: python -m univip_jax.run.supervise -- python main.py"),
        (["--"], "-- and the command are missing"),
        ([sys.executable, "main.py", "--workdir=x"], "-- and the command are missing"),
        (["--max_restarts=-1", "--", sys.executable, "--workdir=x"], "--max_restarts=-1"),
        (["--grace=soon", "--", sys.executable, "--workdir=x"], "--grace=soon"),
        (["--rank=2", "--", sys.executable, "--workdir=x"], "rank"),
        (["--", "no-such-program", "--workdir=x"], "no-such-program is no program"),
        (["--", sys.executable, "main.py"], "the command has no --workdir=DIR"),
    ],
)
def test_parse_refuses_misuse_in_one_line(arguments, message, capsys):
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
        parse(["supervise", *arguments])
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed and len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["python", "main.py", "--workdir=a/b"], Path("a/b")),
        (["python", "main.py", "-workdir=a", "--workdir=b"], Path("b")),
        (["python", "main.py", "--workdirs=a"], None),
        (["python", "main.py", "--workdir="], None),
        (["python", "main.py", "--workdir"], None),
    ],
)
def test_workdir_is_the_last_of_the_command(command, expected):
    assert workdir(command) == expected


@pytest.mark.parametrize(
    ("is_progress", "script"),
    [
        (True, "mkdir checkpoints/30"),
        (True, "mkdir -p grid/checkpoints/1"),
        (True, "mkdir -p step_4_seed_0/grid/lr=0.1/checkpoints/1"),
        (True, "mv checkpoints/20 checkpoints/damaged-20 && sleep 0.01 && mkdir checkpoints/20"),
        (True, "printf more >> step_4_seed_0/features/a.rows"),
        (True, "touch step_4_seed_0/results.json"),
        (False, "mkdir checkpoints/30.orbax-checkpoint-tmp-0"),
        (False, "mv checkpoints/20 checkpoints/damaged-20"),
        (False, "rm -r checkpoints/10"),
        (False, "printf rows > step_4_seed_0/features/a.rows"),
        (False, "echo >> metrics.jsonl"),
    ],
)
def test_saved_work_grows_with_progress_alone(tmp_path, is_progress, script):
    for name in ("checkpoints/10", "checkpoints/20", "step_4_seed_0/features"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "step_4_seed_0/features/a.rows").write_text("rows")
    before = saved_work(tmp_path)
    subprocess.run(script, shell=True, check=True, cwd=tmp_path)
    assert bool(saved_work(tmp_path) - before) == is_progress


def test_saved_work_survives_a_disk_that_fails(tmp_path, monkeypatch):
    """The command may just have died of it."""
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)

    def fail(self, pattern):
        raise OSError(5, "Input/output error")

    assert len(saved_work(tmp_path)) == 1
    monkeypatch.setattr(Path, "glob", fail)
    assert saved_work(tmp_path) == set()
