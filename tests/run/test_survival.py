"""What a run survives: interruptions, damage, disks and devices that fail; and what it refuses to go on with."""

import gc
import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.small import assert_equal_states, prepare_photos, small_config, write_photos
from univip_jax.common import cli
from univip_jax.common.errors import DivergedReplicas, UserError
from univip_jax.config import flatten
from univip_jax.data.index import Index
from univip_jax.data.records import open_dataset
from univip_jax.evaluate import in_training as during
from univip_jax.evaluate.in_training import make_evaluator
from univip_jax.run import pretraining as training
from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.run.log import RunLog


def train(config, folder: Path) -> bool:
    """As main.py does."""
    return training.train(config, folder, make_evaluator)


def knn_config(data, labelled):
    """The config of `run`, which k-NN looks at after every second step."""
    config = small_config(data)
    config.knn.every_steps, config.knn.train, config.knn.test, config.knn.k = 2, str(labelled), str(labelled), 3
    config.knn.batch_size = 8
    return config


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


PHASES = {  # what is under way when SIGTERM comes, and after which step the run then ends
    "compile": (training, "compile_run", 0),
    "step": (RunLog, "report", 2),
    "save": (Checkpoints, "save", 3),
    "evaluate": (during.KnnEvaluator, "__call__", 3),
}


@pytest.mark.parametrize("phase", PHASES)
def test_sigterm_loses_nothing_whenever_it_comes(run, data, labelled, tmp_path, monkeypatch, capsys, phase):
    """The step is saved, the run returns, and the next one ends with the same bits as an undisturbed one."""
    again, (place, name, after) = tmp_path / "again", PHASES[phase]
    real = getattr(place, name)

    def terminate(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    config = knn_config(data, labelled)
    with monkeypatch.context() as patched:
        patched.setattr(place, name, terminate)
        assert train(config, again)
    assert f"SIGTERM: saving step {after} of 4" in (out := capsys.readouterr().out) or f"before step {after + 1}" in out
    with Checkpoints(again, Retention(3)) as checkpoints:
        assert after == (checkpoints.steps() or [0])[-1]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not train(config, again)
    assert_equal_states(run, again, 4)
    assert [line["step"] for line in lines(again) if "train/loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines(again) if "knn/top1" in line] == [2, 4]
    assert (again / "plans.npz").read_bytes() == (run / "plans.npz").read_bytes()


def test_the_best_checkpoint_stays_and_multiples_of_keep_every_steps_do(data, labelled, tmp_path, monkeypatch):
    """Of 4 steps the newest, the second and fourth, and the first, whose features no later ones surpass."""
    top1 = dict(zip(range(1, 5), (40.0, 10.0, 40.0, 5.0), strict=True))
    values = iter(top1.values())
    monkeypatch.setattr(during, "knn_top1", lambda *_: next(values))
    config = knn_config(data, labelled)
    config.keep_checkpoints, config.keep_every_steps, config.knn.every_steps = 1, 2, 1
    train(config, tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, 2, 4]
    assert {line["step"]: line["knn/top1"] for line in lines(tmp_path) if "knn/top1" in line} == top1


def test_k_nn_during_a_run_is_that_of_its_checkpoint_and_an_interrupted_one_is_made_up_for(data, labelled, tmp_path):
    config = knn_config(data, labelled)
    train(config, tmp_path)
    found = [line for line in lines(tmp_path) if "knn/top1" in line]
    assert [line["step"] for line in found] == [2, 4]
    assert all(line["knn/top1"] >= 75 and 1 < line["knn/effective_rank"] <= 24 for line in found)
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    kept = [line for line in lines(tmp_path) if not (line["step"] == 2 and "knn/top1" in line)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in kept))
    train(config, tmp_path)
    assert [line for line in lines(tmp_path) if "knn/top1" in line] == found


OTHER_READINGS = {  # of what the paper leaves open; configs/coco.py has the others
    "augment.instances": "two_views",
    "model.predictors": "two",
    "model.running_stats": "all",
    "transport.plan_mass": 0.0,
    "transport.stop_gradient": False,
}


def test_a_run_by_the_other_readings_resumes_with_the_same_bits(data, tmp_path):
    config = small_config(data)
    for name, value in OTHER_READINGS.items():
        assert flatten(config)[name] != value
        config.update_from_flattened_dict({name: value})
    train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "4")
    train(config, tmp_path / "again")
    assert_equal_states(tmp_path / "whole", tmp_path / "again", 4)
    assert lines(tmp_path / "again")[-1]["plan/mass"] == pytest.approx(4)  # K


def test_goodput_counts_what_was_done_twice(run, data, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    before = json.loads((again / "goodput.json").read_text())["seconds"]
    shutil.rmtree(again / "checkpoints" / "4")
    trained = [line["goodput/train_seconds"] for line in lines(again)]
    train(small_config(data), again)
    after = json.loads((again / "goodput.json").read_text())
    assert after["attempts"] == 2
    assert after["seconds"]["lost"] == pytest.approx(before["train"] - trained[1])
    assert after["seconds"]["restore"] > before["restore"]
    last = lines(again)[-1]
    seconds = [value for name, value in last.items() if name.startswith("goodput/") and name.endswith("_seconds")]
    assert last["goodput/share"] == pytest.approx(last["goodput/train_seconds"] / sum(seconds))


def test_a_full_disk_ends_the_run_at_once_and_leaves_the_last_good_checkpoint(run, data, tmp_path, caplog, monkeypatch):
    """No file may grow beyond 64 KiB from here on, as on a disk that is full."""
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "4")
    config = small_config(data)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    cli.quiet()  # as every command does
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(UserError, match=r"a checkpoint cannot be written to .*checkpoints: .*free space"):
            train(config, again)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    gc.collect()  # or what asyncio says of it comes later, at any time
    assert "Traceback" not in caplog.text  # the error is printed once
    train(config, again)
    assert_equal_states(run, again, 4)


def test_replicas_that_diverge_end_the_run_and_are_not_saved(run, data, tmp_path, monkeypatch):
    """A bit of one device's copy flips after step 2 was saved."""
    again, save = tmp_path / "again", Checkpoints.save

    def flip(checkpoints, step, state, meta):
        if step == 4:
            copies = [shard.data for shard in state.bad_steps.addressable_shards]
            copies[3] = jax.device_put(np.int32(1), copies[3].device)
            diverged = jax.make_array_from_single_device_arrays((), state.bad_steps.sharding, copies)
            state = state.replace(bad_steps=diverged)
        save(checkpoints, step, state, meta)

    config = small_config(data)
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", flip)
        with pytest.raises(DivergedReplicas, match=r"device 3 holds other bits than device 0 in 1 of .*\(bad_steps"):
            train(config, again)
    with Checkpoints(again, Retention(3)) as checkpoints:
        assert checkpoints.steps() == [2]
    train(config, again)
    assert_equal_states(run, again, 4)


def test_resume_equals_an_undisturbed_run_bit_for_bit(run, data, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "4")
    train(small_config(data), again)
    assert_equal_states(run, again, 4)
    assert [line["step"] for line in lines(again)] == [1, 2, 3, 4]
    assert (again / "plans.npz").read_bytes() == (run / "plans.npz").read_bytes()


def test_a_finished_run_is_left_alone(run, data, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    train(small_config(data), run)
    assert "is finished" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_an_evaluation_that_falls_on_the_last_step_is_made_up_for_once(run, data, labelled, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    for _ in range(2):
        train(knn_config(data, labelled), again)
        assert "is finished" in capsys.readouterr().out
        assert [line["step"] for line in lines(again) if "knn/top1" in line] == [4]


def test_another_config_is_refused_by_field(run, data):
    config = small_config(data)
    config.optimizer.lr = 0.3
    with pytest.raises(UserError, match=r"optimizer\.lr was 0\.2 and is now 0\.3"):
        train(config, run)


def test_another_data_set_is_refused(run, tmp_path):
    write_photos(tmp_path / "photos", 17)
    other = prepare_photos(tmp_path / "photos", tmp_path / "prepared")
    half = tmp_path / "half"
    shutil.copytree(run, half)
    shutil.rmtree(half / "checkpoints" / "4")
    with pytest.raises(UserError, match="is not the data set"):
        train(small_config(other), half)


def test_steps_that_are_not_finite_change_nothing_and_end_the_run_when_they_are_too_many(data, tmp_path, capsys):
    """The warm-up's first rate is 0; step 1 spoils the parameters, so that steps 2 and 3 are not finite."""
    config, folder = small_config(data), tmp_path / "run"
    config.optimizer.lr = 1e38
    config.max_bad_steps = 2
    with pytest.raises(UserError, match=r"step 3 is not finite: loss nan.*; it is the last of 2 in a row, and"):
        train(config, folder)
    warned = [line for line in capsys.readouterr().err.splitlines() if "the update was skipped" in line]
    assert [line.split()[1] for line in warned] == ["2"]
    bundle = json.loads((folder / "not_finite.json").read_text())["steps"]
    assert [step["step"] for step in bundle] == [2, 3]
    index = Index(open_dataset(str(data)), config.seed, config.batch_size)
    for step in bundle:
        # Photos are 000.png, 001.png, ...; the order of the records is that of their names.
        expected = [f"{record:03d}.png" for record in index.rows(step["step"]).records]
        assert step["photos"] == expected and isinstance(step["metrics"]["train/loss"], str)
    found = lines(folder)
    assert [line["step"] for line in found] == [1, 2, 3]
    assert "train/loss" in found[1] and "train/loss" not in found[2]
