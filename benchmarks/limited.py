"""A part of a measurement: a process with a time limit, a log and a record of what it found."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def run_part(
    line: list[str], path: Path, limit: float, choices: Path | None = None, profile: bool = False
) -> dict[str, Any]:
    """Runs `python LINE --json=FILE`; returns what is in the file, and why the process failed, or "".

    Args:
      path: beside it lie the process's log and, by `profile`, what it writes to --profile=FOLDER.
      limit: s; then the process and all that it started are killed.
      choices: folder for XLA's choices of kernels.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished, log, profiles = path.with_suffix(".unfinished"), path.with_suffix(".log"), path.with_suffix("")
    unfinished.unlink(missing_ok=True)
    shutil.rmtree(profiles, ignore_errors=True)
    environment = dict(os.environ)
    if choices:
        choices.mkdir(parents=True, exist_ok=True)
        flag = f"--xla_gpu_per_fusion_autotune_cache_dir={choices.resolve()}"
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    count = lambda: sum(file.is_file() for file in choices.rglob("*")) if choices else 0  # noqa: E731
    known, began, code = count(), time.monotonic(), None
    whole = [sys.executable, *line, f"--json={unfinished}"]
    whole += [f"--profile={profiles}"] if profile else []
    with open(log, "wb") as file:
        process = subprocess.Popen(
            whole, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            failure = f"not done after {limit:.0f} s"
        finally:  # its workers too, also where Ctrl-C ends this command
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found = json.loads(unfinished.read_text()) if code is not None and unfinished.is_file() else None
    unfinished.unlink(missing_ok=True)
    if code is not None:
        last = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
        failure = f"exit code {code}: {last[:120]}" if code or not found else ""
    if found and "results" in found:  # one program: also one that is out of memory, which ends with code 0
        failure = found["results"][0]["failure"] or failure
    kernels = next(iter(profiles.glob("*/kernels.json")), None)
    return {
        "failure": failure,
        "seconds": time.monotonic() - began,
        "choices": [known, count()],
        "found": found,
        "kernels": json.loads(kernels.read_text()) if kernels else None,
    }
