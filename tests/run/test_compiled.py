"""A restart finds the programs that were compiled, and none that was damaged."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jaxlib
import pytest

from univip_jax.run import compiled as programs

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from univip_jax.run.compiled import cache_compiled

run = Path(sys.argv[1])
cache_compiled(run)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if "cache_hits" in event else None)
print(float(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.full((8, 8), 0.5)).sum()))
print(len(hits))
"""


def run(folder: Path, *arguments: str) -> tuple[str, int, str]:
    """The result, the number of programs that were found, and stderr."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-c", PROGRAM, str(folder), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    value, hits = done.stdout.split()
    return value, int(hits), done.stderr


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    value, hits, _ = run(folder)
    assert hits == 0
    return folder, value


def test_a_second_start_compiles_nothing_even_if_the_run_was_moved(compiled, tmp_path):
    folder, value = compiled
    shutil.copytree(folder, tmp_path / "moved")
    for place in (folder, tmp_path / "moved"):
        again, hits, _ = run(place)
        assert again == value and hits >= 1


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_program_is_removed_before_it_is_used_and_compiled_again(compiled, damage):
    folder, value = compiled
    entries = sorted((folder / "compiled").glob("*-cache"))
    whole = [path.read_bytes() for path in entries]
    for path, data in zip(entries, whole, strict=True):
        if damage == "cut":
            path.write_bytes(data[: len(data) // 2])
        elif damage == "flip":  # in the middle, where only the checksum sees it
            middle = len(data) // 2
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])
        else:  # killed before the first byte was written
            path.write_bytes(b"")
    again, hits, err = run(folder)
    assert (again, hits) == (value, 0)
    assert "persistent compilation cache" not in err  # JAX never saw it
    assert run(folder)[1] >= 1  # the new ones are whole


def settings(monkeypatch, run: Path, backend: str, xla_flags: str = "") -> dict[str, str]:
    """What `cache_compiled` tells JAX on a backend."""
    told = {}
    jax.devices()  # XLA has read the flags of all tests before they change
    monkeypatch.setattr(jax, "config", SimpleNamespace(jax_compilation_cache_dir=None, update=told.__setitem__))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setenv("XLA_FLAGS", xla_flags)
    programs.cache_compiled(run)
    return told


def test_gpus_store_xlas_choices_by_version_beside_the_programs(monkeypatch, tmp_path):
    folder, cache, caches = tmp_path / "compiled", "jax_compilation_cache_dir", "jax_persistent_cache_enable_xla_caches"
    of_version = {cache: str(folder / jaxlib.__version__), caches: "xla_gpu_per_fusion_autotune_cache_dir"}
    assert settings(monkeypatch, tmp_path, "gpu") == of_version
    assert settings(monkeypatch, tmp_path, "gpu", "--xla_gpu_autotune_level=4") == of_version
    given = "--xla_gpu_per_fusion_autotune_cache_dir=/mine"
    assert settings(monkeypatch, tmp_path, "gpu", given) == of_version | {caches: "none"}
    for other in ("cpu", "tpu"):
        assert settings(monkeypatch, tmp_path, other) == {cache: str(folder), caches: "none"}
