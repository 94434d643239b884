"""Two supervised processes of two devices each: killed, restarted, stopped; and gone on with as one process of four."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.small import long_config
from univip_jax.evaluate.features import extract
from univip_jax.evaluate.knn import open_for_knn
from univip_jax.evaluate.neighbours import knn_top1
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.run.health import effective_rank
from univip_jax.run.log import RunLog
from univip_jax.run.train import train
from univip_jax.weights.encoder import load_encoder

ROOT = Path(__file__).parents[2]
CONFIG = """
from tests.small import long_config

def get_config():
    config = long_config({data!r})
    config.knn.every_steps, config.knn.k, config.knn.batch_size = 2, 3, 8
    config.knn.train = config.knn.test = {labelled!r}
    return config
"""
TIMEOUT = 400  # s


def start(config: Path, run: Path) -> subprocess.Popen:
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    command = [sys.executable, "-m", "univip_jax.run.supervise", "--num_processes=2", "--backoff=0.01", "--"]
    command += [sys.executable, "main.py", f"--config={config}", f"--workdir={run}"]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    with run.with_name("log.txt").open("w") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def ranks(run: Path) -> list[int]:
    """The process ids of the ranks of a run."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        words = place.read_bytes().split(b"\0") if place.exists() else []
        if f"--workdir={run}".encode() in words and b"main.py" in words[:3]:
            found.append(int(place.parent.name))
    return found


def metrics(run: Path, name: str = "train/loss") -> list[dict]:
    """The lines that hold `name`."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if f'"{name}"' in line]


def one_step(config, run: Path, monkeypatch) -> dict:
    """Goes on for one step, which SIGTERM ends, in this process of four devices; its metrics."""
    report = RunLog.report

    def terminate(*arguments):
        report(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(RunLog, "report", terminate)
        train(config, run)
    return metrics(run)


def test_two_processes_are_one_run_that_survives_a_kill_and_goes_on_elsewhere(data, labelled, tmp_path, monkeypatch):
    config, run, log = tmp_path / "config.py", tmp_path / "run", tmp_path / "log.txt"
    config.write_text(CONFIG.format(data=str(data), labelled=str(labelled)))
    supervisor = start(config, run)

    def wait_for(condition) -> None:
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert supervisor.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.1)

    try:
        wait_for(lambda: len(metrics(run)) >= 4)  # the second checkpoint may be under way
        os.kill(max(ranks(run)), signal.SIGKILL)
        wait_for(lambda: len(ranks(run)) == 0)
        before = metrics(run)
        wait_for(lambda: metrics(run)[-1]["step"] > before[-1]["step"])
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(TIMEOUT) == 0, log.read_text()[-3000:]
    finally:
        supervisor.kill()

    printed, found = log.read_text(), metrics(run)
    last = found[-1]["step"]
    assert [line["step"] for line in found] == list(range(1, last + 1))
    assert "resuming from step" in printed and f"SIGTERM: saving step {last} of 1000" in printed
    # Steps that were done twice gave the same bits.
    assert [line["train/loss"] for line in found[: len(before)]] == [line["train/loss"] for line in before]
    assert load_encoder(run).step == last  # what two processes saved, one verifies

    # The same run by one process of four devices, from its beginning and from the checkpoint of two processes. In
    # float32 this tiny network is good to 1e-2 (docs/benchmarks.md), and batches differ by 0.2; that rows are equal,
    # and the step in float64, is tested elsewhere.
    (elastic := tmp_path / "elastic").mkdir()
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(run / name, elastic / name)
    with Checkpoints(run) as checkpoints:
        before_last = checkpoints.steps()[-2]
    # The first process alone evaluates; its k-NN is that of the checkpoint, whose photos all are in both sets.
    evaluations = {line["step"]: line for line in metrics(run, "knn/top1")}
    assert list(evaluations) == list(range(2, last, 2))
    encoder, photos = load_encoder(run, before_last), open_for_knn(str(labelled), str(labelled), [3])[0]
    features = extract(encoder, photos, 32, 8)
    assert evaluations[before_last]["knn/top1"] == knn_top1(features, features, 3, 0.07)
    np.testing.assert_allclose(evaluations[before_last]["knn/effective_rank"], effective_rank(features.features), 1e-3)
    shutil.copytree(run / "checkpoints" / str(before_last), elastic / "checkpoints" / str(before_last))
    for folder, step in ((tmp_path / "alone", 1), (elastic, before_last + 1)):
        again = one_step(long_config(data), folder, monkeypatch)
        assert again[step - 1]["step"] == step
        np.testing.assert_allclose(again[step - 1]["train/loss"], found[step - 1]["train/loss"], atol=0.02)
