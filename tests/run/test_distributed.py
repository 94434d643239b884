"""Two processes of two devices each are one run: killed, resumed, stopped; then one process of four resumes it."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np

from tests.processes import TOO_SLOW, start_processes
from tests.small import long_config
from univip_jax.evaluate.features import extract
from univip_jax.evaluate.knn import open_for_knn
from univip_jax.evaluate.neighbours import knn_top1
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.run.health import effective_rank
from univip_jax.run.log import RunLog, read_metrics
from univip_jax.run.pretraining import train
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


def metrics(run: Path, name: str = "train/loss") -> list[dict]:
    """The lines that hold `name`."""
    return [line for line in read_metrics(run) if name in line]


def one_step(config, run: Path, monkeypatch) -> dict:
    """Trains one step, which SIGTERM ends, in this process of four devices; the run's metrics."""
    report = RunLog.report

    def terminate(*arguments):
        report(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(RunLog, "report", terminate)
        train(config, run)
    return metrics(run)


def test_two_processes_resume_after_a_kill_and_one_process_resumes_theirs(data, labelled, tmp_path, monkeypatch):
    config, run, log = tmp_path / "config.py", tmp_path / "run", tmp_path / "log.txt"
    config.write_text(CONFIG.format(data=str(data), labelled=str(labelled)))
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "main.py"), f"--config={config}", f"--workdir={run}"]
    command += ["--preempted_exit_code=143"]
    processes = []

    def kill() -> None:
        for process in reversed(processes):  # without process 1, process 0 waits 100 s before it aborts
            process.kill()
            process.wait()

    def start_until_step(step: int) -> None:
        end = time.monotonic() + TIMEOUT
        processes[:] = start_processes(command, 2, environment, log)
        while not any(line["step"] >= step for line in metrics(run)):
            if any(process.poll() is not None for process in processes):
                kill()
                assert TOO_SLOW in log.read_text()[-10000:] and time.monotonic() < end, log.read_text()[-5000:]
                processes[:] = start_processes(command, 2, environment, log)
            assert time.monotonic() < end, log.read_text()[-5000:]
            time.sleep(0.1)

    try:
        start_until_step(4)  # the second checkpoint may be under way
        kill()
        before = metrics(run)
        start_until_step(before[-1]["step"] + 1)
        processes[1].send_signal(signal.SIGTERM)  # all agree on the step
        assert [process.wait(TIMEOUT) for process in processes] == [143, 143], log.read_text()[-5000:]
    finally:
        kill()

    printed, found = log.read_text(), metrics(run)
    last = found[-1]["step"]
    assert [line["step"] for line in found] == list(range(1, last + 1))
    assert "resuming from step" in printed and f"SIGTERM: saving step {last} of 1000" in printed
    # Steps that were done twice gave the same bits.
    assert [line["train/loss"] for line in found[: len(before)]] == [line["train/loss"] for line in before]
    assert load_encoder(run).step == last  # two processes saved it, one verifies it

    # The first process alone evaluates; its k-NN equals that of the checkpoint, whose photos are in both sets.
    with Checkpoints(run) as checkpoints:
        before_last = checkpoints.steps()[-2]
    evaluations = {line["step"]: line for line in metrics(run, "knn/top1")}
    assert list(evaluations) == list(range(2, last, 2))
    encoder, photos = load_encoder(run, before_last), open_for_knn(str(labelled), str(labelled), [3])[0]
    features = extract(encoder, photos, 32, 8)
    assert evaluations[before_last]["knn/top1"] == knn_top1(features, features, 3, 0.07)
    np.testing.assert_allclose(evaluations[before_last]["knn/effective_rank"], effective_rank(features.features), 1e-3)

    # The same run by one process of four devices, from its beginning and from the checkpoint of two processes. In
    # float32 this tiny network is good to 1e-2, and batches differ by 0.2; other tests compare the rows bit for bit,
    # and the step in float64.
    (elastic := tmp_path / "elastic").mkdir()
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(run / name, elastic / name)
    shutil.copytree(run / "checkpoints" / str(before_last), elastic / "checkpoints" / str(before_last))
    for folder, step in ((tmp_path / "alone", 1), (elastic, before_last + 1)):
        again = one_step(long_config(data), folder, monkeypatch)
        assert again[step - 1]["step"] == step
        np.testing.assert_allclose(again[step - 1]["train/loss"], found[step - 1]["train/loss"], atol=0.02)
