"""The ranks of a supervisor: how they are started, what comes of their output, and that nothing of them stays."""

import re
import sys

import pytest

from tests.run.supervised import DEAF, alive, starter


@pytest.fixture
def supervise(tmp_path):
    yield from starter(tmp_path)


def test_the_ranks_find_each_other_by_their_flags(supervise):
    supervised = supervise("print(*sys.argv[2:])", "--num_processes=3")
    assert supervised.wait() == 0
    assert supervised.err == ""
    lines = sorted(supervised.out.splitlines())
    port = re.search(r"--coordinator_address=localhost:(\d+) ", lines[0])[1]
    assert lines == [
        f"[{rank}] --distributed --coordinator_address=localhost:{port} --num_processes=3 --process_id={rank}"
        for rank in range(3)
    ]
    assert 1024 <= int(port) <= 65535


def test_a_single_command_runs_as_it_is(supervise):
    supervised = supervise("print(sys.argv[1:])", "--sigterm_code=143")
    assert supervised.wait() == 0
    assert supervised.out == f"['--workdir={supervised.run}']\n"
    assert supervised.err == ""


def test_lines_are_whole_and_carry_their_rank(supervise):
    """Progress that overwrites itself, both outputs, an end without a newline, and more than a pipe holds."""
    supervised = supervise(
        "if rank == 0:\n"
        "    sys.stdout.write('step 1\\rstep 2\\r\\nend')\n"
        "    sys.stderr.write('warning\\n')\n"
        "else:\n"
        "    for i in range(20000): sys.stdout.write(f'line {i} ' + 'x' * 20 + '\\n')\n",
        "--num_processes=2",
    )
    assert supervised.wait() == 0
    assert supervised.err == "[0] warning\n"
    lines = re.findall(r"[^\r\n]*(?:\r\n|[\r\n])", supervised.out)
    assert [line for line in lines if line.startswith("[0]")] == ["[0] step 1\r", "[0] step 2\r\n", "[0] end\n"]
    others = [line for line in lines if not line.startswith("[0]")]
    assert others == [f"[1] line {i} {'x' * 20}\n" for i in range(20000)]


def test_output_comes_when_it_is_written(supervise):
    supervised = supervise("print('now')\nsignal.pause()", "--num_processes=2")
    supervised.wait_for(lambda: sorted(supervised.out.splitlines()) == ["[0] now", "[1] now"])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
@pytest.mark.parametrize("count", [1, 2])
def test_no_rank_outlives_a_supervisor_that_was_killed(supervise, count):
    supervised = supervise(DEAF, f"--num_processes={count}")
    supervised.wait_for_file(*(f"ready-{rank}" for rank in range(count)))
    pids = [supervised.pid(rank) for rank in range(count)]
    assert all(alive(pid) for pid in pids)
    supervised.process.kill()
    supervised.wait_for(lambda: not any(alive(pid) for pid in pids))


def test_no_child_outlives_its_rank(supervise):
    supervised = supervise(
        "import subprocess\n"
        "tell('child', subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)']).pid)",
        "--num_processes=2",
    )
    assert supervised.wait() == 0
    supervised.wait_for(lambda: not alive(int((supervised.run / "child").read_text())))
