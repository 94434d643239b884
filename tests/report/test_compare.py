"""Runs side by side."""

import base64
import json
import re
import shutil

import pytest

from univip_jax.common.errors import UserError
from univip_jax.report.compare import write_comparison


def test_two_runs_side_by_side(run, tmp_path):
    """The second has another learning rate, a k-NN and a probe, an AP, and no transport plan."""
    one, other = tmp_path / "a" / "run", tmp_path / "b" / "run"
    for folder in (one, other):
        folder.mkdir(parents=True)
        for name in ("config.json", "metrics.jsonl"):
            shutil.copy(run / name, folder)
    config = json.loads((other / "config.json").read_text())
    rate, config["optimizer"]["lr"] = config["optimizer"]["lr"], 0.75
    (other / "config.json").write_text(json.dumps(config))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [{name: value for name, value in line.items() if not name.startswith("plan/")} for line in lines]
    lines += [{"step": 2, "knn/top1": 41.0}, {"step": 4, "knn/top1": 37.5, "probe/top1": 50.0}]
    (other / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (other / "results.json").write_text(json.dumps({"box": {"AP": 12.5}, "test": {"set": "val"}}))
    judged = {"before": {"top1": 20.0}, "after": {"top1": 30.0}, "verdict": "better"}
    (one / "before_after.json").write_text(json.dumps({"knn": judged, "logistic": judged}))

    page = write_comparison([one, other], tmp_path / "out.html").read_text()
    assert "<script" not in page
    assert page.count("<img") == page.count("src=") == page.count("data:image/svg+xml;base64,")
    assert "<title>a/run and b/run</title>" in page
    rows = [re.findall(r"<td>([^<]*)", row) for row in page.split("<tr>")[1:]]
    rows = {name: values for name, *values in rows}
    assert rows["optimizer.lr"] == [str(rate), "0.75"] and "seed" not in rows  # it is equal
    assert rows["step"] == ["4 of 4", "4 of 4"] and rows["results.json: box.AP"] == ["-", "12.5"]
    assert rows["k-NN top-1, %"] == ["-", "37.5 (best: 41.0 at step 2)"]
    assert rows["k-NN, before -&gt; after, %"] == ["20.0 -&gt; 30.0 (better)", "-"]
    charts = dict(re.findall(r'alt="([^"]*)" src="data:image/svg\+xml;base64,([^"]+)"', page))
    drawn = {title: base64.b64decode(chart).decode() for title, chart in charts.items()}
    loss, top1 = drawn["loss and its terms: loss"], drawn["top-1 on labelled photos, %: k-NN"]
    first, second = "stroke: #4363d8", "stroke: #e6194b"
    assert first in loss and second in loss and first not in top1 and second in top1
    same = drawn["cosines of instances: with itself"]
    assert first in same and second not in same


@pytest.mark.parametrize(
    ("names", "message"), [("xx", "named twice"), ("xy", "is no run"), ("abcdefghij", "at most 9 times")]
)
def test_what_cannot_be_compared_is_refused(names, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write_comparison([tmp_path / name for name in names], tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()
