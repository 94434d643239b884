"""One page of all that a run's photos show, for the tests of its contents and of a browser."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def page(run, tmp_path_factory) -> Path:
    """As the command writes it, of all 24 photos."""
    folder = tmp_path_factory.mktemp("page") / "run"
    shutil.copytree(run, folder)
    command = [sys.executable, "-m", "univip_jax.report", f"--run={folder}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    assert result.stdout.splitlines()[-1] == str(folder / "report.html")
    return folder / "report.html"
