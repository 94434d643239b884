"""Apache Beam's local runners write the bytes of every other way, and a mistake is one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from data_prep import beam
from data_prep.inputs import Request
from data_prep.prepare import prepare
from data_prep.record import Settings
from tests.data_prep.painted import paint
from univip_jax.common.errors import UserError

ROOT = Path(__file__).parents[2]
SETTINGS = Settings("selective_search", 100, 16, 20)


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for seed in range(20):
        paint(seed).save(root / f"{seed:02d}.jpg")
    (root / "07.jpg").write_bytes(b"damaged")
    return root


def prepared(images, out, **how):
    request = Request(out, SETTINGS, [images], **({"num_workers": 1} | how))
    return prepare(request), {path.name: path.read_bytes() for path in out.iterdir()}


def test_all_runners_write_the_same_bytes(photo_folder, tmp_path):
    _, inline = prepared(photo_folder, tmp_path / "inline")
    assert len(inline) == 9 and b"not an image" in inline["rejected.jsonl"]
    assert prepared(photo_folder, tmp_path / "pool", num_workers=2)[1] == inline
    for index in (1, 0):
        said, array = prepared(photo_folder, tmp_path / "array", task_index=index, num_tasks=2)
    assert "19 records" in said and array == inline
    said, processes = prepared(photo_folder, tmp_path / "processes", num_workers=2, beam_options=())
    assert "19 records" in said and processes == inline
    said, threads = prepared(photo_folder, tmp_path / "threads", beam_options=("--runner=FnApiRunner",))
    assert "20 photos" in said and "by Beam" in said and threads == inline


def refuse(spec, on_photo):
    raise UserError(f"shard {spec} cannot be written (No space left on device): free space")


def test_worker_error_is_one_line(tmp_path):
    with pytest.raises(UserError) as error:
        beam.run(refuse, [1], tmp_path, ("--runner=FnApiRunner",), num_workers=1)
    assert str(error.value) == "shard 1 cannot be written (No space left on device): free space"
    assert list(tmp_path.iterdir()) == []


def test_unknown_beam_runner_is_one_line(photo_folder, tmp_path):
    command = [sys.executable, "-m", "data_prep", f"--images={photo_folder}", f"--out={tmp_path}", "--runner=beam"]
    process = subprocess.run(
        [*command, "--", "--runner=NoSuchRunner"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert "NoSuchRunner" in process.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
