"""The page of a run: what it shows, what it warns of, and that it needs no other file."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from univip_jax.common.errors import UserError
from univip_jax.report.__main__ import warnings, write_report
from univip_jax.report.charts import thin

ROOT = Path(__file__).parents[2]
WELL = {
    "step": 50,
    "train/epoch": 5.0,
    "train/bad_steps": 0.0,
    "features/deviation": 0.9,
    "features/effective_rank": 40.0,
    "goodput/train_seconds": 90.0,
    "goodput/data_seconds": 5.0,
    "goodput/lost_seconds": 5.0,
}


def test_the_page_of_a_run_is_one_file(run, tmp_path):
    again = tmp_path / "a <b> run"
    shutil.copytree(run, again)
    lines = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
    half = [line for line in lines if line["step"] <= 3] + [{"step": 2, "knn/top1": 37.5}]
    (again / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in half) + '{"step": 4, "trai')
    page = write_report(again).read_text()
    assert "a &lt;b&gt; run</h1>" in page and "<b>" not in page
    assert f"Step 3 of 4 (75%), epoch {half[2]['train/epoch']:.1f}. " in page and " left at this pace" in page
    assert "The best k-NN, 37.5 %, is of step 2. Checkpoints: 2, 4." in page
    drawn = re.findall(r'<img alt="([^"]+)" src="data:image/(svg\+xml|png);base64,', page)
    assert {"loss and its terms", "top-1 on labelled photos, %", "gradient norm", "learning rate"} < {
        d[0] for d in drawn
    }
    assert ("photos and their views", "png") in drawn and drawn[-2][0].startswith("where ")
    assert "steps that were not finite" not in dict(drawn)
    assert page.count("<img") == len(drawn) == page.count("src=")
    assert "<tr><td>views.scene_size<td>32" in page


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({}, None),
        ({"train/bad_steps": 2.0}, "2 steps were not finite"),
        ({"features/deviation": 0.04}, r"all but collapsed \(deviation 0\.04\)"),
        ({"train/bad_steps": 2.0, "bundle": 40}, "2 steps were not finite"),
        ({"train/bad_steps": 9.0, "bundle": 59}, "The run has ended itself"),
        ({"features/effective_rank": 1.2}, r"all but collapsed \(effective rank 1\.2\)"),
        ({"goodput/data_seconds": 30.0}, "25% of the steps' time went by waiting for photos"),
        ({"goodput/lost_seconds": 60.0}, "39% of the time was undone"),
    ],
)
def test_what_is_wrong_with_a_run_is_said_first(tmp_path, line, said):
    last = line.pop("bundle", None)
    if last is not None:
        (tmp_path / "not_finite.json").write_text(json.dumps({"steps": [{"step": last - 1}, {"step": last}]}))
    found = warnings(tmp_path, [WELL | line], 64)
    assert not found if said is None else len(found) == 1 and re.search(said, found[0])


def test_a_damaged_checkpoint_is_told_and_a_small_batch_is_no_collapse(tmp_path):
    (tmp_path / "checkpoints" / "damaged-40").mkdir(parents=True)
    (damaged,) = warnings(tmp_path, [WELL | {"features/effective_rank": 2.5}], 8)
    assert "damaged-40 was damaged and set aside" in damaged


def test_of_many_points_few_are_drawn_and_the_shade_reaches_to_each_spike():
    values = np.zeros(10_000)
    values[5000] = 1.0
    steps, means, least, most = thin(list(zip(range(10_000), values.tolist(), strict=True)))
    assert len(steps) == 300 and steps[0] < 20 and steps[-1] > 9_980
    assert most.max() == 1 and least.max() == 0 and 0 < means.max() < 0.05
    assert np.array_equal(thin([(3, 0.5), (7, 0.25)]), [[3, 7], [0.5, 0.25], [0.5, 0.25], [0.5, 0.25]])


@pytest.mark.parametrize(
    ("files", "said"), [({}, "is no run"), ({"config.json": "{}"}, "holds no steps of a training")]
)
def test_what_is_no_run_is_one_line(tmp_path, files, said):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        write_report(tmp_path)


def test_the_command_line(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for folder, code in (("run", 0), ("nowhere", 1)):
        command = [sys.executable, "-m", "univip_jax.report", f"--run={tmp_path / folder}"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr
        assert not code or "nowhere is no run" in result.stderr.splitlines()[-1]
    assert (tmp_path / "run/report.html").stat().st_size > 10_000
