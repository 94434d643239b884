"""The page of a run: contents, warnings, and that it is one file."""

import base64
import html
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.small import small_config
from univip_jax.common.errors import UserError
from univip_jax.report.charts import Level, draw_lines, thin
from univip_jax.report.curves import draw_curves
from univip_jax.report.heat_maps import draw_plans, three_moments
from univip_jax.report.page import write_report
from univip_jax.report.problems import warnings
from univip_jax.run.plans import TransportPlans

WELL = {
    "step": 100,
    "train/epoch": 5.0,
    "train/bad_steps": 0.0,
    "features/std": 0.9,
    "features/effective_rank": 40.0,
    "goodput/train_seconds": 90.0,
    "goodput/data_seconds": 5.0,
    "goodput/lost_seconds": 5.0,
    "plan/diagonal": 0.6,
    "plan/marginal_tv": 0.1,
    "plan/cosine_same": 0.9,
    "plan/cosine_other": 0.86,
}


def warnings_of(run: Path, line: dict, batch_size: int = 64) -> list[str]:
    """Of a run of 100 steps whose newest values are `line` and WELL."""
    config = small_config("unread")
    config.batch_size = batch_size
    return warnings(run, [WELL | line], config, 100)


def test_page_is_one_file(run, tmp_path):
    again = tmp_path / "a <b> run"
    shutil.copytree(run, again)
    lines = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
    half = [line for line in lines if line["step"] <= 3] + [{"step": 2, "knn/top1": 37.5, "features/deviation": 0.01}]
    (again / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in half) + '{"step": 4, "trai')
    (again / "before_after.json").write_text('{"knn"')
    path, warned = write_report(again)
    page = path.read_text()
    assert any("before_after.json is damaged" in line for line in warned)
    assert path == again / "report.html" and all(html.escape(line) in page for line in warned)
    assert any("(std 0.01)" in line for line in warned)  # by its name in older versions
    assert "a &lt;b&gt; run</h1>" in page and "<b>" not in page
    assert f"Step 3 of 4 (75%), epoch {half[2]['train/epoch']:.1f}. " in page and " left at this rate" in page
    assert "Best k-NN: 37.5 % at step 2. Checkpoints: 2, 4." in page
    drawn = re.findall(r'<img alt="([^"]+)" src="data:image/(svg\+xml|png);base64,', page)
    assert {"loss and its terms", "top-1 on labelled photos, %", "gradient norm", "learning rate"} < {
        d[0] for d in drawn
    }
    assert drawn[-2:] == [("transport plans", "png"), ("photos and their views", "png")]
    of_the_plan = {"transport plan, shares of its mass", "cosines of instances", "mass of the transport plan"}
    assert of_the_plan < {d[0] for d in drawn}
    assert page.count("<figcaption>Healthy: ") == 3 and "a gap of more than 0.2 (twice" in page
    assert "for 4 photos of the first batch" in page
    assert re.search(r"Goodput: how .+ were spent: train \d+\.\d%, start ", page)
    assert "skipped steps (not finite)" not in dict(drawn)
    assert page.count("<img") == len(drawn) == page.count("src=")
    assert "<tr><td>views.scene_size<td>32" in page


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({}, None),
        ({"train/bad_steps": 2.0}, "2 steps were not finite"),
        ({"features/std": 0.04}, r"nearly collapsed \(std 0\.04\)"),
        ({"train/bad_steps": 2.0, "bundle": 40}, "2 steps were not finite"),
        ({"train/bad_steps": 9.0, "bundle": 109}, "The run gave up"),
        ({"features/effective_rank": 1.2}, r"nearly collapsed \(effective rank 1\.2\)"),
        ({"plan/diagonal": 0.3}, r"near uniform.*30% of its mass.*--config\.transport\.epsilon=0\.02 .*=200"),
        ({"plan/diagonal": 0.3, "step": 99}, None),
        ({"goodput/data_seconds": 30.0, "step": 99}, None),
        ({"goodput/data_seconds": 30.0}, "waited for photos during 25% of their time"),
        ({"goodput/lost_seconds": 60.0}, "Interruptions undid 39% of the time"),
    ],
)
def test_warnings_name_each_problem(tmp_path, line, expected):
    last = line.pop("bundle", None)
    if last is not None:
        (tmp_path / "not_finite.json").write_text(json.dumps({"steps": [{"step": last - 1}, {"step": last}]}))
    found = warnings_of(tmp_path, line)
    assert not found if expected is None else len(found) == 1 and re.search(expected, found[0])


def test_warnings_name_a_damaged_checkpoint_but_not_the_rank_of_a_small_batch(tmp_path):
    (tmp_path / "checkpoints" / "damaged-40").mkdir(parents=True)
    (damaged,) = warnings_of(tmp_path, {"features/effective_rank": 2.5}, batch_size=8)
    assert "damaged-40 was damaged and quarantined" in damaged


def test_thin_keeps_the_spikes_of_many_points():
    values = np.zeros(10_000)
    values[5000] = 1.0
    steps, means, least, most = thin(list(zip(range(10_000), values.tolist(), strict=True)))
    assert len(steps) == 300 and steps[0] < 20 and steps[-1] > 9_980
    assert most.max() == 1 and least.max() == 0 and 0 < means.max() < 0.05
    assert np.array_equal(thin([(3, 0.5), (7, 0.25)]), [[3, 7], [0.5, 0.25], [0.5, 0.25], [0.5, 0.25]])


@pytest.mark.parametrize(("plan_mass", "drawn"), [(-1.0, True), (1.0, False)])
def test_the_mass_of_the_plan_is_drawn_where_it_varies(plan_mass, drawn):
    config = small_config("unread")
    config.transport.plan_mass = plan_mass
    titles = [chart.title for chart in draw_curves([{"step": 1, "plan/mass": 0.5}], config)]
    assert titles == ["mass of the transport plan"] * drawn


def test_a_damaged_file_of_plans_is_a_warning_on_the_page(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "plans.npz").write_bytes(b"no zip")
    path, warned = write_report(tmp_path / "run")
    assert any(re.match(r"No transport plans are drawn: .*plans\.npz is damaged", line) for line in warned)
    assert "<h2>Transport plans</h2>" not in path.read_text()


def test_the_three_moments_are_the_earliest_the_middle_and_the_newest():
    assert three_moments(np.array([7])) == [0]
    assert three_moments(np.array([7, 9])) == [0, 1]
    assert three_moments(np.array([10, 20, 40, 60, 80, 100])) == [0, 3, 5]


def test_heat_maps_are_dark_where_the_mass_is_and_carry_the_crops():
    """One photo of two crops, red and blue; at first a uniform plan, then a diagonal one, then the other way round."""
    plans = np.array([[[0.25, 0.25], [0.25, 0.25]], [[0.5, 0], [0, 0.5]], [[0, 0.5], [0.5, 0]]], np.float32)
    crops = np.zeros((1, 2, 8, 8, 3), np.uint8)
    crops[0, 0, ..., 0] = crops[0, 1, ..., 2] = 255
    with Image.open(io.BytesIO(draw_plans(TransportPlans(np.array([1, 2, 3]), plans[:, None], crops)))) as drawn:
        pixels = np.asarray(drawn.convert("RGB"), int)
    red, blue = ((pixels == color).all(-1) for color in ((255, 0, 0), (0, 0, 255)))
    for columns, plan in zip(np.array_split(np.arange(pixels.shape[1]), 3), plans, strict=True):
        ys, xs = np.nonzero((red | blue)[:, columns])
        cell, left = (xs.max() - xs.min()) / 3.05, columns[0] + xs.min()  # crops are a twentieth of a cell off the map
        for (row, column), mass in np.ndenumerate(plan):
            corner = pixels[int(ys.min() + (row + 1.2) * cell), int(left + (column + 1.2) * cell)]
            low, high = {0.0: (0.95, 1), 0.25: (0.5, 0.9), 0.5: (0, 0.4)}[float(mass)]
            assert low <= corner.sum() / 765 <= high
        for crop in (red, blue):  # at the head of a row and of a column
            assert crop[:, columns].sum() == pytest.approx(2 * cell**2, rel=0.1)


def test_a_level_is_a_dashed_line_with_its_label():
    series = {"": [(1, 0.5), (2, 0.7)]}
    with_level, without = (draw_lines("a", series, "from_zero", level) for level in (Level("1/K", 0.25), None))
    assert b"stroke-dasharray" in with_level and b"1/K" in with_level
    assert b"stroke-dasharray" not in without


@pytest.mark.parametrize(("files", "message"), [({}, "is no run"), ({"config.json": "{}"}, "has no training steps")])
def test_write_report_refuses_a_folder_without_steps(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        write_report(tmp_path)


def test_page_of_a_sweep_has_a_line_per_seed(tmp_path):
    runs = [{"step": step, "seed": seed, "map": 10.0 * step + seed} for step in (1, 2) for seed in (0, 1)]
    (tmp_path / "results.json").write_text(
        json.dumps({"protocol": "svm_voc07", "map": 21.0, "steps": [], "runs": runs})
    )
    path, warned = write_report(tmp_path)
    page = path.read_text()
    assert not warned and page.count("<img") == 1 and 'alt="svm_voc07: map, %"' in page
    chart = base64.b64decode(re.search(r"svg\+xml;base64,([^\"]+)", page)[1]).decode()
    assert "seed 0" in chart and "seed 1" in chart
