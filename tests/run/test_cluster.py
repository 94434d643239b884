"""A process that should be one of several: misuse is named at once, and vain waiting ends in a line."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tests.processes import free_port
from univip_jax.common.errors import Misuse, TransientError
from univip_jax.run import cluster
from univip_jax.run.cluster import Place

ROOT = Path(__file__).parents[2]
SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    ("place", "distributed", "words"),
    [
        (Place(None, 2, 0), False, "--num_processes needs --distributed"),
        (Place("n1:1234", None, None), False, "--coordinator_address needs --distributed"),
        (Place("n1:1234", 0, None), True, "--num_processes=0 must be at least 1"),
        (Place("n1:1234", 2, 2), True, "--process_id=2 must be at least 0 and below --num_processes=2"),
        (Place("n1:1234", 2, -1), True, "--process_id=-1 must be at least 0"),
        (Place("n1", 2, 0), True, "--coordinator_address=n1 must be HOST:PORT"),
        (Place("n1:http", 2, 0), True, "--coordinator_address=n1:http must be HOST:PORT"),
        (Place("n1:99999", 2, 0), True, "--coordinator_address=n1:99999 must be HOST:PORT"),
        (Place("http://n1:1234", 2, 0), True, "--coordinator_address=http://n1:1234 must be HOST:PORT"),
        (Place(":1234", 2, 0), True, "--coordinator_address=:1234 must be HOST:PORT"),
    ],
)
def test_check_place_refuses_flags_that_cannot_be_right(place, distributed, words):
    with pytest.raises(Misuse) as refused:
        cluster.check_place(place, distributed)
    assert words in str(refused.value) and refused.value.exit_code == 2


@pytest.mark.parametrize("place", [Place(None, None, None), Place("n1:1234", 2, 1), Place("[::1]:1234", 1, 0)])
def test_check_place_takes_what_can_be_right(place):
    assert cluster.check_place(place, True) is None


@pytest.mark.parametrize(
    ("place", "environment", "words"),
    [
        (Place(None, None, None), {}, "--distributed finds no cluster here"),
        (Place(None, 2, 0), {}, "give --coordinator_address=HOST:PORT"),
        (Place("n1:1234", 2, None), {}, "give --coordinator_address=HOST:PORT"),
        (Place(None, None, None), {"SLURM_JOB_ID": "7"}, "SLURM_STEP_NODELIST is not set, so start it by srun"),
        (Place(None, None, None), SLURM, "SLURM_LOCALID is not set, so start it by srun"),
        (Place(None, None, None), SLURM | {"SLURM_LOCALID": "none"}, "'none'"),
        (Place(None, None, None), SLURM | {"SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": ""}, "NODELIST is empty"),
    ],
)
def test_join_without_or_with_half_a_cluster_is_misuse(place, environment, words, monkeypatch):
    monkeypatch.setattr(jax._src.xla_bridge, "backends_are_initialized", lambda: False)  # other tests used devices
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Misuse) as refused:
        cluster.join(place)
    assert words in str(refused.value) and refused.value.exit_code == 2


def test_join_names_a_coordinator_that_cannot_be_used(monkeypatch):
    def taken(*_, **__):
        raise RuntimeError("UNKNOWN: Failed to start RPC server")

    monkeypatch.setattr(jax.distributed, "initialize", taken)
    with pytest.raises(TransientError, match=r"n1:1234 cannot be used \(UNKNOWN: Failed to start RPC server\)"):
        cluster.join(Place("n1:1234", 2, 0))


def test_join_ends_in_a_line_where_the_others_do_not_come():
    place = f"cluster.Place('localhost:{free_port()}', 2, 1)"
    code = f"from univip_jax.run import cluster; cluster.join({place}, 1.0)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 75
    assert result.stderr.splitlines()[-1].startswith("error: process 1 of 2 waited 1 s for the others at localhost:")


def test_held_by_first_raises_in_all_processes(tmp_path, monkeypatch):
    """Process 1 has no lock of its own to fail at: it learns it from process 0."""
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr("univip_jax.sharding.of_first_process", lambda _: [0])
    with pytest.raises(TransientError, match="in use, as process 0 says"), cluster.held_by_first(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
