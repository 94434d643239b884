"""Checkpoints in buckets: what counts, what is set aside, and what a bucket that fails does to them."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint._src.path import gcs_utils

from tests.cloud.servers import Faults
from univip_jax.common.errors import DamagedCheckpoint, TransientError, UserError
from univip_jax.common.files import at
from univip_jax.run import staged
from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.run.staged import committed
from univip_jax.sharding import make_mesh, replicated


def small_state(value: float) -> dict:
    numbers = np.arange(5000, dtype=np.float32) + np.float32(value)
    return jax.device_put({"params": {"a": numbers, "b": -numbers}}, replicated(make_mesh()))


def save(run, *steps: int, keep: Retention | None = None) -> None:
    """Checkpoints of `small_state(step)`."""
    with Checkpoints(run, keep or Retention(9)) as checkpoints:
        for step in steps:
            checkpoints.save(step, small_state(step), {"step": step})
        checkpoints.wait()


def restore(run) -> tuple[int, float]:
    """The newest step, and the first number of its state."""
    with Checkpoints(run, Retention(9)) as checkpoints:
        step, state, meta = checkpoints.restore_newest(small_state(0), replicated(make_mesh()))
    assert meta["step"] == step
    np.testing.assert_array_equal(state["params"]["b"], -np.arange(5000, dtype=np.float32) - np.float32(step))
    return step, float(state["params"]["a"][0])


def objects(folder) -> dict[str, bytes]:
    """What lies in a folder of a bucket, by its place there."""
    paths = folder.fs.find(str(folder))
    return {path[len(str(folder)) - 5 :]: folder.fs.cat_file(path) for path in paths}


def test_retention_and_reading(bucket):
    keep, run = Retention(2, every=3, best=1), at(bucket)
    save(run, 1, 2, 3, 4, 5, 6, keep=keep)
    assert committed(run / "checkpoints") == [1, 3, 5, 6]
    with Checkpoints(run) as checkpoints:
        assert checkpoints.steps() == [1, 3, 5, 6]
        part = checkpoints.restore_part(3, jax.eval_shape(lambda: small_state(0)))
    np.testing.assert_array_equal(part["params"]["a"], np.arange(5000, dtype=np.float32) + 3)
    assert restore(run) == (6, 6.0)
    with pytest.raises(UserError, match="has no checkpoints: it is no run"), Checkpoints(run / "other"):
        pass


def test_a_damaged_checkpoint_is_quarantined_whole_and_the_one_before_is_restored(bucket, capsys):
    run = at(bucket)
    save(run, 2, 4)
    place = run / "checkpoints" / "4"
    for path in [path for path in place.fs.find(str(place)) if "/d/" in path]:
        contents = bytearray(place.fs.cat_file(path))
        contents[len(contents) // 2 % 100 :: 100] = bytes(len(contents[len(contents) // 2 % 100 :: 100]))
        place.fs.pipe_file(path, bytes(contents))
    damaged = objects(place)
    assert restore(run) == (2, 2.0)
    assert "quarantined as damaged-4" in capsys.readouterr().err
    assert objects(run / "checkpoints" / "damaged-4") == damaged
    assert committed(run / "checkpoints") == [2] and not objects(place)
    save(run, 4)
    assert restore(run) == (4, 4.0)


def test_what_an_interrupted_save_or_removal_leaves_counts_for_nothing(bucket):
    run = at(bucket)
    save(run, 2, 4)
    (run / "checkpoints" / "4" / "commit_success.txt").unlink()
    with Checkpoints(run) as checkpoints:
        assert checkpoints.steps() == [2]
    assert objects(run / "checkpoints" / "4")  # who reads removes nothing
    assert restore(run) == (2, 2.0)
    assert not objects(run / "checkpoints" / "4")


def test_on_a_disk_the_folder_of_a_save_under_way_counts_for_nothing(tmp_path):
    """A run that begins from weights began from random ones after such a folder."""
    for name in ("2.orbax-checkpoint-tmp", "4.orbax-checkpoint-tmp-17", "damaged-2", "10"):
        (tmp_path / name).mkdir()
    assert committed(tmp_path) == [10]
    assert committed(tmp_path / "none") == []


class After(Faults):
    """Every request after the first `count` is answered by 403."""

    count = 0

    @property
    def forbidden(self) -> bool:
        return self.num_requests > self.count

    @forbidden.setter
    def forbidden(self, value: bool) -> None:
        pass


@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_a_right_that_is_lost_while_reading_damages_nothing(request, servers, kind):
    """Wherever it happens: opening, reading the description, or the arrays."""
    run, server = at(request.getfixturevalue(kind)), getattr(servers, kind)
    save(run, 2, 4)
    before, count = objects(run / "checkpoints" / "4"), 0
    while True:
        gcs_utils.get_bucket.cache_clear()  # Orbax asks once for the bucket itself, which is a right of its own
        server.faults = After()
        server.faults.count = count
        try:
            assert restore(run) == (4, 4.0)
            break
        except UserError as error:
            assert not isinstance(error, DamagedCheckpoint)
            assert "is closed to you" in str(error) and len(str(error).splitlines()) == 1
        count += 7
    assert count >= 16
    server.reset()
    assert objects(run / "checkpoints" / "4") == before
    assert committed(run / "checkpoints") == [2, 4]


def test_what_tensorstore_says_of_a_network_is_no_damage(gs, monkeypatch):
    run = at(gs)
    save(run, 2)

    def fail(*_, **__):
        raise ValueError("UNAVAILABLE: Error reading d/1: CURL error Couldn't connect to server")

    monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    with pytest.raises(TransientError, match=r"checkpoints cannot be reached \(UNAVAILABLE"):
        restore(run)
    assert committed(run / "checkpoints") == [2]


def test_several_processes_do_not_write_to_s3(s3, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="several processes save to gs:// or to a shared disk"):
        Checkpoints(at(s3), Retention(1))


def test_an_object_that_leads_out_of_its_folder_is_refused(s3, monkeypatch):
    run = at(s3)
    save(run, 2)
    out = str(run / "checkpoints" / "2").partition("://")[2] + "/../../../x"
    monkeypatch.setattr(staged, "_objects", lambda folder: [out])
    with Checkpoints(run) as checkpoints, pytest.raises(UserError, match=r"'../../../x', which leads out of a folder"):
        checkpoints.read_meta(2)
