"""What the page shows of a run's photos: the sample, neighbours, and what it says where there are none."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.small import small_config
from univip_jax.config import to_spec
from univip_jax.data.boxes import pairwise_iou
from univip_jax.data.index import Index, evenly_spread
from univip_jax.data.pipeline import preview
from univip_jax.data.records import open_dataset
from univip_jax.report.neighbours import cosines, nearest
from univip_jax.report.page import write_report
from univip_jax.report.sample import Photo, read_sample
from univip_jax.views import ViewSpec

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page(run, tmp_path_factory) -> Path:
    """The page that the command writes, with what all 24 photos show."""
    folder = tmp_path_factory.mktemp("page") / "run"
    shutil.copytree(run, folder)
    command = [sys.executable, "-m", "univip_jax.report", f"--run={folder}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    assert result.stdout.splitlines()[-1] == str(folder / "report.html")
    return folder / "report.html"


def test_page_shows_neighbours_before_and_after(page):
    text = page.read_text()
    assert "24 of 24 photos, evenly spread" in text and "before its first step and after step\n4." in text
    rows = re.findall(r"<div class=row>.*?</div></div></div>", text)
    assert len(rows) == 24  # 12 photos and 12 instances
    for row in rows:
        query, *neighbours = re.findall(r'title="(\d+\.png)"', row)
        assert len(neighbours) == 10 and query not in neighbours
        for side in (row.split("<h4>after")[0], row.split("<h4>after")[1]):
            found = [float(cosine) for cosine in re.findall(r"<figcaption>(-?\d\.\d\d)<", side)]
            assert len(found) == 5 and found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("data", {"train": "gone"}, "No photos are drawn: data set gone: no such folder"),
        ("", "", "is not the data set"),
    ],
)
def test_page_without_the_runs_photos_says_so(run, tmp_path, field, value, line, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    if field:
        (tmp_path / "run" / "config.json").write_text(json.dumps(config | {field: config[field] | value}))
    else:
        other = open_dataset(config["data"]["train"])._replace(fingerprint="0" * 64)
        monkeypatch.setattr("univip_jax.report.learned.open_dataset", lambda root: other)
    path, warned = write_report(tmp_path / "run", photos=6)
    assert any(line in found for found in warned)
    assert "your photos" not in path.read_text() and "loss and its terms" in path.read_text()


def test_neighbours_are_the_nearest_of_other_photos():
    """Five directions in the plane, of photos 0, 0, 1, 2, 3: the angles of the last three to the first are known."""
    angles = np.radians([0, 1, 60, -30, 180])
    features = 7 * np.stack([np.cos(angles), np.sin(angles)], 1)
    found = nearest(cosines(features, np.array([0, 0, 1, 2, 3])), 0)
    assert [place for place, _ in found] == [3, 2, 4]
    np.testing.assert_allclose([cosine for _, cosine in found], [np.sqrt(0.75), 0.5, -1], atol=1e-12)


def test_sample_is_evenly_spread_and_knows_how_much_training_scenes_overlap(data):
    views = to_spec(ViewSpec, small_config(data), "views")
    dataset = open_dataset(data)
    sample = read_sample(dataset, views, seed=0, count=24)
    shown = [preview(dataset, Index(dataset, 0, 4), views, step, 4) for step in range(6)]  # the first epoch
    scenes = np.stack([photo.geometry.scenes for batch in shown for photo in batch])
    expected = [pairwise_iou(first[None], second[None])[0, 0] for first, second in scenes]
    assert sample.overlap == pytest.approx(np.mean(expected), abs=1e-5)
    assert sample.names == [f"{number:03d}.png" for number in range(24)]
    assert sample.scenes.shape == (24, 32, 32, 3) and np.bincount(sample.owners).max() == 4
    assert evenly_spread(10, 3).tolist() == [1, 5, 8] and evenly_spread(2, 3).tolist() == [0, 1]


def test_photos_are_cut_as_boxes_say():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    photo = Photo("a.png", pixels, (20, 30), np.zeros((0, 4), np.float32))
    np.testing.assert_array_equal(photo.cut(photo.square(), 20, "bilinear"), pixels[:, 5:25])
    box = np.array([0.5, 0.2, 1.0, 0.6], np.float32)
    np.testing.assert_allclose(photo.cut(box, 1, "bilinear")[0, 0], pixels[10:, 6:18].mean((0, 1)), atol=12)
