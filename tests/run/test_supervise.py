"""The supervisor, with small scripts for the ranks: what ends them, what starts them again, and the exit codes."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run.supervised import DEAF, ROOT, SAVES, alive, starter
from univip_jax.run.supervise import kept, newest_step, workdir


@pytest.fixture
def supervise(tmp_path):
    yield from starter(tmp_path)


def test_a_killed_rank_ends_the_others_and_all_start_again(supervise):
    """The others do not listen to SIGTERM, and the first port is still taken when the second is needed."""
    supervised = supervise(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "tell(f'address-{rank}-{start}', flags['coordinator_address'])\n"
        "if start == 1:\n"
        "    if rank == 1: save(5)\n"
        "    tell(f'ready-{rank}')\n"
        "    signal.pause()\n",
        "--num_processes=2",
    )
    supervised.wait_for_file("ready-0", "ready-1")
    addresses = [(supervised.run / f"address-{rank}-1").read_text() for rank in (0, 1)]
    assert addresses[0] == addresses[1]
    with socket.socket() as taken:
        taken.bind(("localhost", int(addresses[0].rsplit(":", 1)[1])))
        os.kill(supervised.pid(1), signal.SIGKILL)
        assert supervised.wait() == 0
    assert not alive(supervised.pid(0))
    assert [supervised.starts(rank) for rank in (0, 1)] == [2, 2]
    again = [(supervised.run / f"address-{rank}-2").read_text() for rank in (0, 1)]
    assert again[0] == again[1] != addresses[0]
    lines = supervised.err.splitlines()
    assert re.fullmatch(
        r"supervise: rank 1 was ended by SIGKILL after 0:\d\d:\d\d; newest checkpoint: step 5", lines[0]
    )
    assert re.fullmatch(r"supervise: all ranks have ended, \d+\.\d\d s after the first", lines[1])
    assert lines[2:] == ["supervise: restart 1 of 3 since the last progress, in 0.01 s"]


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_without_progress_it_gives_up(supervise, limit):
    """Each pause is twice the one before."""
    supervised = supervise("if start == 1: save(7)\nsys.exit(75)", f"--max_restarts={limit}")
    assert supervised.wait() == 75
    # Only the first start brings a checkpoint.
    assert supervised.starts() == 1 + limit
    restarts = re.findall(r"restart (\d) of \d since the last progress, in ([\d.]+) s", supervised.err)
    assert restarts == [("1", "0.01"), ("2", "0.02"), ("3", "0.04")][:limit]
    last = supervised.err.splitlines()[-1]
    assert f"given up after {limit} restarts in a row without progress in {supervised.run}" in last


def test_with_progress_it_never_gives_up(supervise):
    supervised = supervise(
        "sys.exit(0) if start == 6 else None\nsave(10 * start)\nos.kill(os.getpid(), signal.SIGSEGV)",
        "--max_restarts=1",
    )
    assert supervised.wait() == 0
    assert supervised.starts() == 6
    assert supervised.err.count("was ended by SIGSEGV") == 5


@pytest.mark.parametrize("code", [1, 2])
def test_a_mistake_is_not_tried_again(supervise, code):
    """One rank makes it; the other would wait for ever."""
    supervised = supervise(
        f"wait_for('start-1-1') or sys.exit({code}) if rank == 0 else signal.pause()", "--num_processes=2"
    )
    assert supervised.wait() == code
    assert [supervised.starts(rank) for rank in (0, 1)] == [1, 1]
    assert not alive(supervised.pid(1))
    assert f"rank 0 ended with exit code {code}" in supervised.err
    assert supervised.err.splitlines()[-1].endswith("is a mistake that a restart would repeat: the run is ended")


def test_the_first_death_decides(supervise):
    """The other rank dies of it with the code of a mistake, if it has the time."""
    supervised = supervise(
        "if start == 2: sys.exit(0)\n"
        "if rank == 1: wait_for('start-0-1') or os.kill(os.getpid(), signal.SIGKILL)\n"
        "wait_for('start-1-1')\n"
        "stat = Path('/proc', (run / 'start-1-1').read_text(), 'stat')\n"
        "while stat.exists() and ') Z' not in stat.read_text(): pass\n"
        "sys.exit(1)",
        "--num_processes=2",
    )
    assert supervised.wait() == 0
    assert supervised.starts(0) == 2
    assert "rank 1 was ended by SIGKILL" in supervised.err
    assert "exit code 1" not in supervised.err


def test_of_deaths_seen_together_one_worth_a_restart_decides(supervise):
    supervised = supervise(
        "if start == 2: sys.exit(0)\n"
        "wait_for('go')\n"
        "sys.exit(1) if rank == 0 else os.kill(os.getpid(), signal.SIGKILL)",
        "--num_processes=2",
    )
    supervised.wait_for_file("start-0-1", "start-1-1")
    supervised.process.send_signal(signal.SIGSTOP)
    (supervised.run / "go").touch()
    supervised.wait_for(lambda: not alive(supervised.pid(0)) and not alive(supervised.pid(1)))
    supervised.process.send_signal(signal.SIGCONT)
    assert supervised.wait() == 0
    assert supervised.starts(0) == 2


@pytest.mark.parametrize(
    ("signum", "flags", "code"),
    [(signal.SIGTERM, [], 0), (signal.SIGTERM, ["--sigterm_code=143"], 143), (signal.SIGINT, [], 130)],
)
def test_a_signal_is_passed_on_and_nothing_restarts(supervise, signum, flags, code):
    supervised = supervise(SAVES, "--num_processes=2", *flags)
    supervised.wait_for_file("ready-0", "ready-1")
    supervised.process.send_signal(signum)
    assert supervised.wait() == code
    told = sorted(path.name for path in supervised.run.glob("signal-*"))
    assert told == [f"signal-{rank}-{int(signum)}" for rank in (0, 1)]
    assert supervised.starts() == 1
    assert supervised.err.splitlines() == [
        f"supervise: {signum.name}: passed on; the ranks have 120 s to end, and a second signal kills them"
    ]


def test_a_rank_that_dies_of_the_signal_is_not_started_again(supervise):
    """It is the cause; the other, which waits for it for ever, is killed long before the grace ends."""
    supervised = supervise(
        "signal.signal(signal.SIGTERM, (lambda *_: sys.exit(3)) if rank == 0 else signal.SIG_IGN)\n"
        "tell(f'ready-{rank}')\n"
        "while True: time.sleep(0.01)",
        "--num_processes=2",
        "--grace=1000",
    )
    supervised.wait_for_file("ready-0", "ready-1")
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.wait() == 3
    assert supervised.starts() == 1
    assert not alive(supervised.pid(1))


def test_a_signal_between_two_starts_ends_it(supervise):
    supervised = supervise("sys.exit(75)", "--backoff=1000")
    supervised.wait_for(lambda: ", in 300 s" in supervised.err)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.wait() == 75
    assert supervised.starts() == 1


def test_ranks_that_do_not_listen_are_killed_after_the_grace(supervise):
    supervised = supervise(DEAF, "--num_processes=2", "--grace=0.1")
    supervised.wait_for_file("ready-0", "ready-1")
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.wait() == 128 + signal.SIGKILL
    assert supervised.starts() == 1
    assert "not all ranks have ended 0.1 s after the signal: killed" in supervised.err
    assert not alive(supervised.pid(0)) and not alive(supervised.pid(1))


def test_a_second_signal_kills(supervise):
    supervised = supervise(DEAF, "--grace=1000")
    supervised.wait_for_file("ready-0")
    supervised.process.send_signal(signal.SIGTERM)
    supervised.wait_for(lambda: "passed on" in supervised.err)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.wait() == 128 + signal.SIGKILL
    assert not alive(supervised.pid(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "-- and the command are missing, as in: python -m univip_jax.run.supervise -- python main.py"),
        (["--"], "the command is missing"),
        ([sys.executable, "main.py", "--workdir=x"], "-- and the command are missing"),
        (["--num_processes=0", "--", sys.executable, "--workdir=x"], "--num_processes=0"),
        (["--grace=soon", "--", sys.executable, "--workdir=x"], "--grace=soon"),
        (["--rank=2", "--", sys.executable, "--workdir=x"], "rank"),
        (["--", "no-such-program", "--workdir=x"], "no-such-program is no program"),
        (["--", sys.executable, "main.py"], "the command has no --workdir"),
    ],
)
def test_misuse_is_one_line(arguments, message):
    result = subprocess.run(
        [sys.executable, "-m", "univip_jax.run.supervise", *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["python", "main.py", "--workdir=a/b"], Path("a/b")),
        (["python", "main.py", "--workdir", "a/b", "--distributed"], Path("a/b")),
        (["python", "main.py", "-workdir=a", "--workdir=b"], Path("b")),
        (["python", "main.py", "--workdirs=a"], None),
        (["python", "main.py", "--workdir"], None),
    ],
)
def test_the_runs_folder_is_that_of_the_command(command, expected):
    assert workdir(command) == expected


def test_only_committed_checkpoints_count(tmp_path):
    assert newest_step(tmp_path / "nowhere") == -1
    for name in ("8", "20", "100.orbax-checkpoint-tmp-0", "damaged-300"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert newest_step(tmp_path) == 20


@pytest.mark.parametrize(
    ("is_progress", "script"),
    [
        (True, "mkdir checkpoints/30"),
        (True, "mkdir -p grid/checkpoints/1"),
        (True, "mkdir -p step_4_seed_0/final/checkpoints/1"),
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
def test_what_a_restart_goes_on_from_is_progress(tmp_path, is_progress, script):
    for name in ("checkpoints/10", "checkpoints/20", "step_4_seed_0/features"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "step_4_seed_0/features/a.rows").write_text("rows")
    before = kept(tmp_path)
    subprocess.run(script, shell=True, check=True, cwd=tmp_path)
    assert bool(kept(tmp_path) - before) == is_progress


def test_a_disk_that_errs_is_no_end_of_the_supervisor(tmp_path, monkeypatch):
    """It asks for progress just when a rank has died of that disk."""
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)

    def fail(self, pattern):
        raise OSError(5, "Input/output error")

    assert len(kept(tmp_path)) == 1
    monkeypatch.setattr(Path, "glob", fail)
    assert kept(tmp_path) == set()


def test_it_starts_without_jax():
    """It stays in memory as long as the run, and a restart should not wait for it."""
    code = "import sys, univip_jax.run.supervise; print([m for m in ('jax', 'orbax', 'numpy') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "[]\n", result.stderr
