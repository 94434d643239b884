"""Detectors whose every path lies in a bucket are judged and used as on a disk."""

import dataclasses
import json

import pytest

from tests.cloud.copies import files, put
from tests.detection.scene import CATEGORIES, NET, SPEC, TINY, prepare_scene, write_scene
from tests.detection.small import small_config
from tests.weights.random_detector import detector_variables
from univip_jax.common.errors import UserError
from univip_jax.common.files import at
from univip_jax.detect import __main__ as detect
from univip_jax.detect.__main__ import Request, detect_folder
from univip_jax.detection.start import find_detector
from univip_jax.detection.task import train
from univip_jax.weights.detector_file import write_detector


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A folder with photos, a prepared set of them, and a run with a detector of random weights."""
    root = tmp_path_factory.mktemp("scene")
    prepare_scene(root / "photos", write_scene(root / "photos"), root / "set")
    named = sorted(CATEGORIES, key=lambda one: one["id"])
    facts = {"categories": named, "detector": dataclasses.asdict(TINY), "input": dataclasses.asdict(SPEC), "step": 3}
    (root / "run").mkdir()
    write_detector(root / "run/detector.safetensors", NET, detector_variables(NET), facts)
    (root / "photos" / "z.jpg").write_bytes(b"no photo")
    return root


def judge(run, photos, workdir):
    config = small_config("", str(photos), "schedule=evaluate")
    config.schedule.steps, config.pretrained, config.dtype = 0, str(run), "float32"
    train(config, workdir)
    found = json.loads((workdir / "results.json").read_text())
    del found["seconds"], found["settings"]
    return found


def test_a_detector_is_judged_with_the_disks_numbers(scene, gs, tmp_path):
    place = at(put(scene, gs))
    wanted, found = judge(scene / "run", scene / "set", tmp_path), judge(place / "run", place / "set", place / "judged")
    assert found["pretrained"].pop("path") == f"{gs}/run/detector.safetensors"
    assert wanted["pretrained"].pop("path") and wanted["test"].pop("set") and found["test"].pop("set") == f"{gs}/set"
    assert found == wanted
    names = {"detections.json", "detections.html", "results.json", "settings.json"}
    assert {path.name for path in (place / "judged").iterdir()} == names
    assert (place / "judged/detections.json").read_bytes() == (tmp_path / "detections.json").read_bytes()
    assert find_detector(f"{gs}/none") is None


def test_detect_writes_the_bytes_of_the_disk(scene, s3, tmp_path, monkeypatch):
    monkeypatch.setattr(detect, "available_cores", lambda: 1)
    place = at(put(scene, s3))
    request = Request(str(scene / "run"), str(scene / "photos"), tmp_path / "f.json", tmp_path / "drawn", 0.06, 4)
    detect_folder(request)
    there = Request(str(place / "run"), str(place / "photos"), place / "out/f.json", place / "out/drawn", 0.06, 4)
    assert "without 1 that cannot be read" in detect_folder(there)
    found, wanted = files(place / "out"), files(tmp_path)
    assert len(found) == 3 + 6 and found.keys() == wanted.keys()
    about = [json.loads(one.pop("f.images.json")) for one in (found, wanted)]
    assert about[0].pop("info")["detector"] == f"{s3}/run/detector.safetensors" and about[1].pop("info")
    assert found == wanted and about[0] == about[1]
    for name in ("out", "draw"):
        with pytest.raises(UserError, match=f"{s3}/out/.* exists already: choose another --{name} or delete it"):
            detect_folder(there._replace(**({"out": place / "g.json"} if name == "draw" else {})))
