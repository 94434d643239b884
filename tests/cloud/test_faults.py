"""Runs in a bucket whose server errs, is gone, or closed; several processes; and what a supervisor sees."""

import asyncio
import math
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import botocore.retries.standard
import gcsfs.retry
import pytest

from tests.cloud.test_run import assert_same_end
from tests.cloud.tiny import train_tiny
from tests.processes import TOO_SLOW, start_processes
from univip_jax.common import cli
from univip_jax.common.errors import TransientError
from univip_jax.common.files import at, held
from univip_jax.run import clock, staged
from univip_jax.run.log import MetricsWriter, RunLog, read_metrics
from univip_jax.run.supervise import saved_work

ROOT = Path(__file__).parents[2]
STEPS = 6


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """The pauses of the clients between attempts are a tenth of what they are, their number is the same."""
    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=lambda seconds: asyncio.sleep(seconds / 10)))
    pause = botocore.retries.standard.ExponentialBackoff.delay_amount
    monkeypatch.setattr(botocore.retries.standard.ExponentialBackoff, "delay_amount", lambda *given: pause(*given) / 10)
    monkeypatch.setattr(staged, "_PATIENCE", 1.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A tiny run on a disk."""
    folder = tmp_path_factory.mktemp("whole")
    train_tiny(folder, STEPS, 2)
    return folder


def begin_at(monkeypatch, step: int, fault) -> None:
    """Calls `fault` once, before step `step` is reported."""
    report = RunLog.report

    def spy(log, at_step, *rest):
        if at_step == step:
            monkeypatch.setattr(RunLog, "report", report)
            fault()
        report(log, at_step, *rest)

    monkeypatch.setattr(RunLog, "report", spy)


def command(run: Path) -> int:
    """The exit code of a command that trains in `run`, in this process."""

    def work() -> None:
        with held(run):
            train_tiny(run, STEPS, 2)

    with pytest.raises(SystemExit) as end:
        cli.call("error", work, interrupted="again", folder=run)
    return end.value.code or 0


@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_a_server_that_errs_or_is_gone_for_some_seconds_delays_a_run(request, servers, whole, kind, monkeypatch):
    """1 request in 10 is answered by 503; from step 5 on there is no server for 2 s: for 20, if pauses were whole."""
    run, server = at(request.getfixturevalue(kind)), getattr(servers, kind)
    server.faults.failing = 0.1

    def be_gone() -> None:  # of the attempts only the last comes later
        server.faults.failing, server.faults.gone_until = 0.0, time.monotonic() + 2

    begin_at(monkeypatch, 5, be_gone)
    assert command(run) == 0
    server.reset()
    assert_same_end(whole, run)


@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_a_network_that_is_gone_ends_with_75_and_the_same_command_resumes(
    request, servers, whole, kind, monkeypatch, capsys
):
    run, server = at(request.getfixturevalue(kind)), getattr(servers, kind)
    begin_at(monkeypatch, 5, lambda: setattr(server.faults, "gone_until", math.inf))
    assert command(run) == 75
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("error: ") and "cannot be reached" in line for line in lines) == 1
    assert [line for line in lines if not line.startswith(("error: ", "the lease "))] == []
    server.reset()
    assert command(run) == 75  # the lease is this process's, which lives
    (run / "lock-1").unlink()
    assert command(run) == 0
    assert re.search("resuming from step [24]", capsys.readouterr().out)  # the save of step 4 may have begun
    assert_same_end(whole, run)


@pytest.mark.parametrize("fault", ["rights", "name"])
def test_a_bucket_that_is_closed_or_misspelt_is_one_line_and_exit_code_1(servers, bucket, fault, capsys):
    server = getattr(servers, bucket[:2])
    run = at(bucket if fault == "rights" else bucket.replace("//bucket", "//buckets"))
    server.faults.forbidden = fault == "rights"
    assert command(run) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"error: {bucket[:2]}://bucket.*(closed to you|no such bucket)", line)


def test_a_lease_whose_answer_was_lost_is_held(bucket, monkeypatch):
    """The second attempt finds what the first one wrote."""
    run, pipe = at(bucket), at(bucket).fs.pipe_file

    def pipe_twice(*arguments, **options):
        pipe(*arguments, **options)
        pipe(*arguments, **options)

    monkeypatch.setattr(run.fs, "pipe_file", pipe_twice)
    with held(run):
        monkeypatch.undo()
        with pytest.raises(TransientError, match="in use"), held(run):
            pass
    assert not list(run.glob("lock-*"))


def test_two_processes_of_two_devices_in_a_bucket_equal_one_of_four_on_a_disk(gs, whole, tmp_path):
    run, log = at(gs), tmp_path / "log.txt"
    environment = {
        **os.environ,
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=4", "count=2"),
        "PYTHONPATH": str(ROOT),
    }
    for _ in range(3):
        started = start_processes(
            [sys.executable, "-m", "tests.cloud.tiny", f"--workdir={run}", f"--steps={STEPS}"], 2, environment, log
        )
        codes = [process.wait(200) for process in started]
        if TOO_SLOW not in log.read_text():
            break
    assert codes == [0, 0], log.read_text()[-3000:]
    assert_same_end(whole, run)


def test_the_log_in_a_bucket_is_put_now_and_then_and_a_restart_continues_it(bucket, monkeypatch):
    run = at(bucket)
    monkeypatch.setattr(clock, "_PAUSE", 1000.0)
    writer = MetricsWriter(run, 0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": step / 2, "nan": math.nan})
    assert read_metrics(run) == [{"step": 1, "loss": 0.5}]
    writer.flush()
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3]
    writer.close()
    first = {path.name for path in run.iterdir()} - {"metrics.jsonl"}
    time.sleep(1.1)  # the name of an events file holds its second
    writer = MetricsWriter(run, 2)
    writer.write(3, {"loss": 7.0})
    writer.close()
    assert read_metrics(run) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 7.0}]
    events = {path.name for path in run.iterdir()} - {"metrics.jsonl"}
    assert len(first) == 1 and len(events) == 2 and first < events


def test_a_supervisor_sees_progress_in_a_bucket_and_none_where_it_fails(servers, bucket, capsys):
    run = at(bucket)
    known = saved_work(run)
    assert not known
    for name, progress in (
        ("checkpoints/2/state/manifest.ocdbt", False),
        ("checkpoints/2/commit_success.txt", True),
        ("step_2_seed_0/fit/checkpoints/1/commit_success.txt", True),
        ("checkpoints/damaged-2/commit_success.txt", False),
        ("metrics.jsonl", False),
        ("results.json", True),
        ("checkpoints/2/commit_success.txt", True),  # saved again
    ):
        if name in str(known):
            time.sleep(1.1)  # S3 gives whole seconds
        run.fs.pipe_file(str(run / name), b"x")
        assert bool(saved_work(run) - known) == progress, name
        known |= saved_work(run)
    getattr(servers, bucket[:2]).faults.forbidden = True
    assert saved_work(run) == set()
    assert "supervise: progress cannot be seen: " in capsys.readouterr().err
