"""The command line: what a user can get wrong is one line on stderr and exit code 1 or 2."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config=configs/coco.py", "--config.optimizer.lrr=1"], 2, "lr instead of lrr"),
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
        (["--config=configs/coco.py", "--seeds=0,1"], 1, "--steps and --seeds are of evaluations"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, code, message):
    command = [sys.executable, "main.py", f"--workdir={tmp_path / 'run'}", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("distributed", [False, True])
def test_a_traceback_is_no_mistake_of_the_users_and_nothing_holds_the_end_up(tmp_path, distributed):
    """jax.distributed waits for the others at exit, and the second of these two never comes; a thread still runs, as
    some of Orbax do for minutes after a save that failed."""
    result = run_failing(tmp_path, "RuntimeError('as nobody thought of')", *["--distributed"] * distributed)
    assert result.returncode == 70
    assert "RuntimeError: as nobody thought of" in result.stderr


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path):
    below = tmp_path / "run" / "config.json"
    for error, place in (("OSError(28, 'No')", "a file in --workdir="), (f"OSError(13, 'No', '{below}')", str(below))):
        result = run_failing(tmp_path, error)
        assert result.returncode == 1
        assert result.stderr.startswith(f"error: {place}")
        assert ": No; put it right" in result.stderr and len(result.stderr.strip().splitlines()) == 1
    elsewhere = run_failing(tmp_path, f"OSError(13, 'No', '{tmp_path / 'photos'}')")
    assert elsewhere.returncode == 70 and "Traceback" in elsewhere.stderr


def run_failing(folder: Path, error: str, *flags: str) -> subprocess.CompletedProcess:
    """`main.py` where the training raises `error`."""
    config = folder / "config.py"
    config.write_text("from configs import coco\n\ndef get_config():\n    return coco.get_config()\n")
    code = (
        "import sys, runpy, univip_jax.run.train as t, jax\n"
        "def fail(config, run):\n"
        "    __import__('threading').Thread(target=lambda: __import__('time').sleep(300)).start()\n"
        f"    raise {error}\n"
        "t.train = fail\n"
        "jax.distributed.initialize = lambda *_: __import__('atexit').register(lambda: __import__('time').sleep(300))\n"
        "sys.argv = ['main.py'] + sys.argv[1:]\n"
        "runpy.run_path('main.py', run_name='__main__')\n"
    )
    flags = [f"--config={config}", f"--workdir={folder / 'run'}", *flags]
    return subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, cwd=ROOT, timeout=200)
