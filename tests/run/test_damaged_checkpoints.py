"""Checkpoints that are damaged, unreadable or of another version."""

import shutil
from pathlib import Path

import jax
import orbax.checkpoint as ocp
import pytest

import univip_jax
from tests.small import assert_equal_states, small_config
from univip_jax.common.errors import DamagedCheckpoint, UserError
from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.run.integrity import description_sha256
from univip_jax.run.pretraining import train
from univip_jax.sharding import make_mesh, replicated


def damage(folder: Path, step: int) -> None:
    """Flips one bit in a hundred bytes of all that a checkpoint's arrays are stored in, whichever file holds which."""
    files = [path for path in (folder / "checkpoints" / str(step)).rglob("d/*") if path.is_file()]
    assert files
    for path in files:
        data = bytearray(path.read_bytes())
        for place in range(len(data) // 2 % 100, len(data), 100):
            data[place] ^= 8
        path.write_bytes(data)


def test_a_damaged_checkpoint_is_quarantined_and_the_one_before_gives_the_same_end(run, data, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    damage(again, 4)
    train(small_config(data), again)
    printed = capsys.readouterr()
    assert "quarantined as damaged-4" in printed.err and "resuming from step 2" in printed.out
    assert max(map(len, printed.err.splitlines())) < 400
    assert (again / "checkpoints" / "damaged-4").is_dir()
    assert_equal_states(run, again, 4)


def test_an_evaluation_of_a_damaged_checkpoint_is_refused(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    damage(again, 4)
    with pytest.raises(UserError, match=r"checkpoints/4 is damaged \(.*\); others are of steps \[2\]"):
        univip_jax.load_encoder(again)
    assert univip_jax.load_encoder(run).step == 4


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")])
def test_a_disk_or_device_that_fails_sets_no_checkpoint_aside(run, data, tmp_path, monkeypatch, error):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "4")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    with pytest.raises((UserError, jax.errors.JaxRuntimeError), match=r"cannot be read: .*Input/output|RESOURCE_EXH"):
        train(small_config(data), again)
    assert [path.name for path in (again / "checkpoints").iterdir()] == ["2"]


@pytest.mark.parametrize(("fields", "lacks"), [({}, "digests"), ({"digests": {}}, "shapes")])
def test_a_checkpoint_of_an_older_version_is_neither_damaged_nor_quarantined(tmp_path, fields, lacks):
    meta = {"fingerprint": "x", **fields}
    if fields:
        meta["sha256"] = description_sha256(meta)
    with Checkpoints(tmp_path, Retention(1)) as checkpoints:
        state = {"params": {"a": jax.numpy.ones(3)}}
        items = {"state": ocp.args.StandardSave(state), "meta": ocp.args.JsonSave(meta)}
        checkpoints._manager.save(4, args=ocp.args.Composite(**items))
        checkpoints.wait()
        with pytest.raises(UserError, match=rf"checkpoints/4 carries no {lacks}: an older version") as error:
            checkpoints.restore(4, state, replicated(make_mesh()))
        assert not isinstance(error.value, DamagedCheckpoint)


def test_a_config_that_no_checkpoint_fits_is_refused_and_nothing_is_changed(run, data, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    config = small_config(data)
    config.allow_changes = "model.hidden"
    config.model.hidden = 24
    with pytest.raises(
        UserError, match=r"checkpoints/4 is of another network or optimizer .* as batch_stats/"
    ) as error:
        train(config, again)
    assert not isinstance(error.value, DamagedCheckpoint)
    assert sorted(path.name for path in (again / "checkpoints").iterdir()) == ["2", "4"]
    assert (again / "config.json").read_bytes() == (run / "config.json").read_bytes()


def test_where_no_checkpoint_is_whole_the_run_does_not_silently_begin_anew(run, data, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    damage(again, 4)
    damage(again, 2)
    with pytest.raises(UserError, match=r"no checkpoint of .* is whole: damaged-4, damaged-2 were quarantined there"):
        train(small_config(data), again)
    assert sorted(p.name for p in (again / "checkpoints").iterdir()) == ["damaged-2", "damaged-4"]
