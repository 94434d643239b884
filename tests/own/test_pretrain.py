"""`univip_jax.pretrain` from photos to a page, and what it refuses."""

import json
import shlex
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

import univip_jax
from configs import common
from data_prep.record import Settings
from tests.small import small_config
from tests.weights.random_weights import assert_equal
from univip_jax import load_encoder
from univip_jax.common.errors import UserError
from univip_jax.config import flatten
from univip_jax.own import budget, recipe
from univip_jax.own import pretrain as command
from univip_jax.run.folder import read_config
from univip_jax.run.log import read_metrics
from univip_jax.run.pretraining import open_run


@pytest.fixture
def small(monkeypatch, data):
    """A small network, and 5 steps fit in what is left of an hour."""
    base = small_config(data)
    monkeypatch.setattr(common, "get_config", base.copy_and_resolve_references)
    monkeypatch.setattr(budget, "time_steps", lambda run: (650.0, 1.0))
    monkeypatch.setattr(budget, "step_memory", lambda plan, mesh: 0)  # else another program is compiled
    monkeypatch.setattr(recipe, "_LEAST_STEPS", 2)
    monkeypatch.setattr(command, "_PAGE_PHOTOS", 0)  # tests/report has its pictures


def asked(data, out, run, **more):
    return {"images": data, "out": out, "hours": 1, "init": run, "scene_size": 32, **more}


def test_photos_become_weights_and_a_page_and_a_second_call_repeats_nothing(
    data, run, labelled, tmp_path, small, capsys, monkeypatch
):
    out = tmp_path / "out"
    page = univip_jax.pretrain(**asked(data, out, run, labelled=str(labelled)))
    printed = capsys.readouterr().out
    assert page == out / "run/report.html" and page.exists()
    plan = json.loads((out / "pretrain.json").read_text())["fields"]
    assert plan["num_steps"] == 5 and plan["batch_size"] == 4 and plan["data.train"] == str(data)
    assert (plan["init"], plan["model.width"], plan["model.stem"]) == (str(run), 0.125, "small")
    assert read_config(out / "run").started_from.parts == "backbone and projector"
    assert read_metrics(out / "run")[-1]["step"] == 5 and not (out / "data").exists()
    trained, exported = (load_encoder(out / name).variables for name in ("run", "backbone.safetensors"))
    assert_equal(trained, exported)
    judged = json.loads((out / "run/before_after.json").read_text())["settings"]
    assert judged["before"] == load_encoder(run).sha256() and judged["after"] == load_encoder(out / "run").sha256()
    assert "24 distinct photos are few" in printed and "weights   backbone and projector of" in printed

    # The command that it names trains by the same config.
    line = next(line for line in printed.splitlines() if line.startswith("same by"))
    words = shlex.split(line.removeprefix("same by"))[1:]
    assert words[1] == "--config=configs/common.py"
    argv = [word for word in words if not word.startswith("--config=")]
    monkeypatch.setattr(sys, "argv", argv)  # config_flags looks for its overrides there
    given, values = common.get_config(), flags.FlagValues()
    config_flags.DEFINE_config_dict("config", given, flag_values=values)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    values(argv)
    trained = {name: value for name, value in flatten(read_config(out / "run")).items() if "started_from" not in name}
    assert flatten(given) == trained and values.workdir == str(out / "run")

    before = {path: path.stat().st_mtime_ns for path in (out / "backbone.safetensors", out / "pretrain.json")}
    assert univip_jax.pretrain(**asked(data, out, run)) == page
    assert "is finished: 5 of 5" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(UserError, match=r"was begun with hours=1\.0, not 2\.0: give that again"):
        univip_jax.pretrain(**asked(data, out, run, hours=2))
    (out / "pretrain.json").write_text("{")
    with pytest.raises(UserError, match=r"pretrain\.json is damaged"):
        univip_jax.pretrain(**asked(data, out, run))


def test_photos_are_prepared_by_the_command_that_is_printed(tmp_path, monkeypatch, capsys):
    """Camera photos are shrunk, since they are decoded in every epoch."""
    requests = []
    monkeypatch.setattr(command, "prepare", lambda request: requests.append(request) or "prepared")
    given = command.Asked(["photos a", "b.zip"], ["coco.json"], 1.0, "", "", 0)
    assert command._prepared(given, tmp_path) == tmp_path / "data"
    (request,) = requests
    line = capsys.readouterr().out.splitlines()[0].removeprefix("prepare   ")
    assert shlex.split(line)[3:] == [
        *("--images=photos a", "--images=b.zip", "--annotations=coco.json", f"--out={tmp_path / 'data'}"),
        "--max_side=640",
    ]
    assert (request.images, request.annotations, request.out) == (given.images, given.annotations, tmp_path / "data")
    assert request.settings.described() == Settings("selective_search", 256, 64, 100, max_side=640).described()


def test_mistakes_are_refused_before_photos_are_prepared(data, run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"hours=0 must be above 0"):
        univip_jax.pretrain(tmp_path, tmp_path / "out", hours=0)
    with pytest.raises(UserError, match=r"neither a folder nor a TFDS name"):
        univip_jax.pretrain(tmp_path, tmp_path / "out", labelled=str(tmp_path / "none"))
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(command, "prepare", None)
    for options, message in (
        ({"backbone": "resnet5"}, r"model\.backbone='resnet5' is unknown"),
        ({"init": tmp_path / "no.pth"}, r"no\.pth is no run"),
        ({"init": run, "backbone": "resnet50"}, "--backbone=resnet50, but --init holds a resnet10"),
        ({"scene_size": 8}, "scene_size=8 must be at least 32 px"),
    ):
        with pytest.raises(UserError, match=message):
            univip_jax.pretrain(tmp_path / "photos", tmp_path / "out", **options)
    with pytest.raises(UserError, match="is prepared already: leave --annotations out"):
        univip_jax.pretrain(data, tmp_path / "out", annotations="coco.json")


def test_fit_batch_takes_what_the_compiled_step_says_fits(monkeypatch):
    """1 GiB and 0.1 GiB an image in 4.2 GiB, of which 0.9 may be used: 27 images, 24 for 8 devices, of which..."""
    monkeypatch.setattr(budget, "device_memory", lambda device: int(4.2 * 2**30))
    monkeypatch.setattr(budget, "step_memory", lambda plan, mesh: int((1 + 0.1 * plan / mesh.size) * 2**30))
    for devices, expected in ((1, range(20, 28)), (4, range(80, 112))):
        mesh = SimpleNamespace(size=devices, devices=np.zeros(devices))
        plan, needed, limit = budget.fit_batch(lambda batch: batch, 512, mesh)
        assert plan in expected and plan % devices == 0 and needed <= 0.9 * limit
    monkeypatch.setattr(budget, "device_memory", lambda device: 2**30)
    with pytest.raises(UserError, match=r"one image for each device takes 1\.1 GiB and there are 1\.0"):
        budget.fit_batch(lambda batch: batch, 512, SimpleNamespace(size=1, devices=np.zeros(1)))


def test_time_steps_counts_whole_steps(data, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "_LEAST_SECONDS", 0.0)
    ticks = iter(range(0, 1000, 10))
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    opened = open_run(small_config(data), tmp_path / "run")
    seconds, compiling = budget.time_steps(opened)
    assert (seconds, compiling) == ((20 - 10) / 2, 10)  # 0 at the start, 10 after two steps, 20 after all four
    assert budget.step_memory(opened.plan, opened.mesh) > 0
