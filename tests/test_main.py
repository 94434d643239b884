"""The command line: what a user can get wrong is one line on stderr and exit code 1 or 2."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absl.testing import flagsaver

import main
from univip_jax.common.files import held

ROOT = Path(__file__).parents[1]


@pytest.fixture
def command(monkeypatch):
    """Runs main.py in this process; returns its exit code."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)

    def end(code):
        raise SystemExit(code)

    monkeypatch.setattr(main.os, "_exit", end)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["main.py", *arguments])  # config_flags looks for its overrides there
        with flagsaver.flagsaver():
            try:
                main.main(main.parse(sys.argv))
            except SystemExit as error:
                return error.code
        return 0

    return run


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config=configs/coco.py", "--config.optimizer.lrr=1"], 2, "error: 'lrr' Did you mean lr instead of lrr?\n"),
        (["--config=configs/cocoa.py"], 2, "cocoa.py"),
        (["--config=configs/coco.py:table7=z"], 2, "table7=a|b|c|d|e"),
        (["--config=configs/coco.py", "--config.batch_size=many"], 2, "many"),
        ([], 2, "--config is missing"),
        (["--config=configs/coco.py", "--config.data.train=nowhere"], 1, "nowhere"),
        (["--config=configs/knn.py", "--config.pretrained=nowhere"], 1, "nowhere is no run"),
        (["--config=configs/semi.py:labels=10", "--config.pretrained=elsewhere"], 1, "elsewhere is no run"),
        (
            ["--config=configs/linear.py", "--config.pretrained=random", "--config.batch_size=0"],
            1,
            "batch_size=0 must be",
        ),
        (
            ["--config=configs/knn.py", "--config.pretrained=random", "--config.k=20,0"],
            1,
            "k=[20, 0] must be at least 1",
        ),
        (["--config=configs/coco.py", "--config.stall_seconds=-1"], 1, "stall_seconds=-1.0 must be at least 0"),
        (
            ["--config=configs/coco.py", "--config.data.train=$NO_SUCH/x"],
            2,
            "--config.data.train=$NO_SUCH/x: the variable",
        ),
        (["--config=$NO_SUCH/coco.py"], 2, "the variable NO_SUCH has no value"),
        (["--config=configs/coco.py", "--num_processes=2"], 2, "--num_processes needs --distributed"),
        (["--config=configs/coco.py", "--distributed", "--process_id=-1"], 2, "--process_id=-1 must be at least 0"),
        (["--config=configs/coco.py", "--seeds=0,1"], 1, "--steps and --seeds are for evaluations"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, capsys, command, arguments, code, message):
    assert command(f"--workdir={tmp_path / 'run'}", *arguments) == code
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ") and message in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("preempted", "flag", "code"), [(True, "143", 143), (True, "0", 0), (False, "143", 0)])
def test_a_preempted_training_ends_with_the_code_asked_for(tmp_path, command, monkeypatch, preempted, flag, code):
    monkeypatch.setattr("univip_jax.run.pretraining.train", lambda config, folder, **_: preempted)
    arguments = (f"--workdir={tmp_path / 'run'}", "--config=configs/demo.py", f"--preempted_exit_code={flag}")
    assert command(*arguments) == code


def test_paths_are_in_the_home_folder(tmp_path, command, monkeypatch):
    seen = []
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(ROOT / "configs/common.py", tmp_path / "mine.py")
    monkeypatch.setattr(
        "univip_jax.run.pretraining.train",
        lambda config, folder, **_: seen.extend([folder, config.data.train]),
    )
    assert command("--workdir=~/runs/x", "--config=~/mine.py", "--config.data.train=~/data/x") == 0
    assert seen == [tmp_path / "runs/x", str(tmp_path / "data/x")]


@pytest.mark.parametrize("config", ["configs/demo.py", "configs/knn.py"])
def test_a_second_process_is_refused_and_touches_nothing(tmp_path, command, capsys, config):
    run = tmp_path / "run"
    (run / "compiled").mkdir(parents=True)
    (run / "compiled/half-cache").write_bytes(b"still being written")
    with held(run):
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        assert command(f"--workdir={run}", f"--config={config}") == 75
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert capsys.readouterr().err.startswith(f"error: {run} is in use: process {os.getpid()} on ")


def test_a_workdir_among_the_classes_is_refused(tmp_path, command, capsys):
    (tmp_path / "T" / "cat").mkdir(parents=True)
    flags = [f"--config.data.{name}={tmp_path / 'T'}" for name in ("train", "test")]
    assert command(f"--workdir={tmp_path / 'T' / 'run'}", "--config=configs/knn.py", *flags) == 1
    assert "lies in data.train=" in capsys.readouterr().err and not (tmp_path / "T" / "run").exists()


def test_tasks_are_those_of_the_configs():
    assert {"train", "detection", "knn", "linear", "semi", "svm"} == set(main.TASKS)
    for place in main.TASKS.values():
        assert callable(main._load(place))


@pytest.mark.parametrize("distributed", [False, True])
def test_a_traceback_is_no_mistake_of_the_users_and_nothing_holds_the_end_up(tmp_path, distributed):
    """jax.distributed waits for the others at exit, and the second of these two never comes; a thread still runs, as
    some of Orbax do for minutes after a save that failed."""
    result = run_failing(tmp_path, "RuntimeError('as nobody thought of')", *["--distributed"] * distributed)
    assert result.returncode == 70
    assert "RuntimeError: as nobody thought of" in result.stderr


def test_a_workdir_that_cannot_be_written_to_is_one_line(tmp_path, command, monkeypatch, capsys):
    def fail(config, folder, **_):
        raise PermissionError(13, "Permission denied", str(folder / "config.json"))

    monkeypatch.setattr("univip_jax.run.pretraining.train", fail)
    assert command(f"--workdir={tmp_path / 'run'}", "--config=configs/demo.py") == 1
    line = f"error: {tmp_path / 'run' / 'config.json'}: Permission denied; make it writable, or choose another folder\n"
    assert capsys.readouterr().err == line


def run_failing(folder: Path, error: str, *flags: str) -> subprocess.CompletedProcess:
    """`main.py` where the training raises `error`."""
    config = folder / "config.py"
    config.write_text("from configs import coco\n\ndef get_config():\n    return coco.get_config()\n")
    code = (
        "import sys, runpy, univip_jax.run.pretraining as t, jax\n"
        "def fail(config, run, **_):\n"
        "    __import__('threading').Thread(target=lambda: __import__('time').sleep(300)).start()\n"
        f"    raise {error}\n"
        "t.train = fail\n"
        "def wait(*_, **__): __import__('atexit').register(lambda: __import__('time').sleep(300))\n"
        "jax.distributed.initialize = wait\n"
        "sys.argv = ['main.py'] + sys.argv[1:]\n"
        "runpy.run_path('main.py', run_name='__main__')\n"
    )
    flags = [f"--config={config}", f"--workdir={folder / 'run'}", *flags]
    return subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, cwd=ROOT, timeout=200)
