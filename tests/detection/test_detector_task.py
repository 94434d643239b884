"""A detector's run from the command: trains, resumes, judges; and what it refuses."""

import json
import os
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from safetensors.numpy import load_file

from tests.detection.small import CATEGORIES, paint, prepare_set, small_config
from univip_jax.common.errors import UserError
from univip_jax.data.detection.sets import open_set
from univip_jax.detection.start import find_detector, open_detector
from univip_jax.detection.step import on_canvas
from univip_jax.detection.task import _is_finished, train
from univip_jax.detection.training import open_run
from univip_jax.run.log import RunLog
from univip_jax.weights.detector_file import read_detector, write_detector
from univip_jax.weights.detector_names import to_detectron2_detector
from univip_jax.weights.pickle_file import write_pkl


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A training set of 12 photos and a test set of 6."""
    root = tmp_path_factory.mktemp("sets")
    return tuple(
        prepare_set(root / f"photos_{name}", paint(root / f"photos_{name}", count, seed), root / name)
        for name, count, seed in (("train", 12, 0), ("test", 6, 1))
    )


@pytest.fixture(scope="module")
def run(sets, tmp_path_factory):
    """A finished run of 4 steps; tests work on copies."""
    folder = tmp_path_factory.mktemp("run")
    assert not train(small_config(*sets), folder)
    return folder


def weights(folder) -> dict[str, np.ndarray]:
    return load_file(folder / "detector.safetensors")


def test_a_run_ends_with_a_detector_and_results(run, sets):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for name in ("rpn_class", "rpn_box", "class", "box", "mask"):
        assert all(np.isfinite(line[f"train/loss_{name}"]) for line in lines), name
    results = json.loads((run / "results.json").read_text())
    assert results["steps"] == 4 and results["photos_seen"] == 16 and results["schedule"] == "1 steps"
    assert results["protocol"].startswith("mask_rcnn_fpn, changed: ") and "batch_size" in results["protocol"]
    assert results["pretrained"]["path"] == "random" and len(results["pretrained"]["sha256"]) == 64
    assert results["train"]["photos"] == 12 and results["test"]["photos"] == 6
    for kind in ("box", "mask"):
        assert 0 <= results[kind]["AP50"] <= 100
    file = read_detector(run / "detector.safetensors")
    assert file.facts["categories"] == CATEGORIES and file.facts["step"] == 4


def test_an_interrupted_run_ends_with_the_same_bits(run, sets, tmp_path, monkeypatch):
    """SIGTERM after the first step, then a process that dies before its last save."""
    report = RunLog.report

    def terminate(log, step, *rest):
        report(log, step, *rest)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunLog, "report", terminate)
    assert train(small_config(*sets), tmp_path / "run")
    monkeypatch.undo()

    class Killed(Exception):
        pass

    def die(log, step, *rest):
        if step == 4:
            raise Killed

    monkeypatch.setattr(RunLog, "report", die)
    with pytest.raises(Killed):
        train(small_config(*sets), tmp_path / "run")
    monkeypatch.undo()
    assert not train(small_config(*sets), tmp_path / "run")
    first, second = weights(run), weights(tmp_path / "run")
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert json.loads((run / "detections.json").read_text()) == json.loads(
        (tmp_path / "run" / "detections.json").read_text()
    )


def test_a_finished_run_is_left_alone_and_judged_again_where_its_results_are_gone(run, sets, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    assert not train(small_config(*sets), copy)
    assert "is there already: delete it to judge again" in capsys.readouterr().out
    before = json.loads((copy / "results.json").read_text())
    (copy / "results.json").unlink()
    assert not train(small_config(*sets), copy)
    after = json.loads((copy / "results.json").read_text())
    assert after["box"] == before["box"] and after["mask"] == before["mask"]


def test_a_detector_is_judged_as_it_is(run, sets, tmp_path):
    config = small_config("", sets[1], "schedule=evaluate")
    config.schedule.steps, config.pretrained, config.dtype = 0, str(run), "float32"
    train(config, tmp_path / "judged")
    results = json.loads((tmp_path / "judged/results.json").read_text())
    assert results["box"] == json.loads((run / "results.json").read_text())["box"]
    assert results["pretrained"]["step"] == 4

    write_pkl(tmp_path / "others.pkl", to_detectron2_detector(read_detector(run / "detector.safetensors").variables))
    config.pretrained = str(tmp_path / "others.pkl")
    train(config, tmp_path / "others")
    ours, theirs = (json.loads((tmp_path / name / "detections.json").read_text()) for name in ("judged", "others"))
    assert ours and ours == theirs  # a file that says neither classes nor sizes


def test_precise_statistics_are_means_of_batches(run, sets):
    """Those of the stem are of photos alone: the mean of two batches' own."""
    opened = open_run(small_config(*sets), run)
    kernel = weights(run)["params/backbone/conv1/kernel"]
    means = []
    for batch in opened.span(4, 6):
        images = on_canvas(jnp.asarray(batch.images), jnp.asarray(batch.sizes))
        maps = lax.conv_general_dilated(
            images, kernel, (2, 2), ((3, 3), (3, 3)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        means.append(maps.mean((0, 1, 2)))
    found = weights(run)["batch_stats/backbone/bn1/mean"]
    np.testing.assert_allclose(found, np.mean(means, axis=0), atol=1e-5)


REFUSED = {
    "no_pretrained": ({"pretrained": ""}, "pretrained is not set: --config.pretrained=RUN_DIR"),
    "no_data": ({"data.train": ""}, "data.train is not set"),
    "missing_weights": ({"pretrained": "missing.pth"}, "missing.pth"),
    "other_stem": ({"model.stem": "cifar"}, "has a cifar stem"),
    "large_batch": ({"batch_size": 16}, "12 photos with objects, less than one batch"),
    "odd_batch": ({"batch_size": 3}, r"batch_size=3 is not divisible by the 4 devices"),
    "odd_test_batch": ({"test.batch_size": 3}, r"^test.batch_size=3 is not .*--config.test.batch_size=4"),
    "head": ({"detector.box_head": "3fc"}, "box_head='3fc' is unknown"),
    "canvas": ({"input.max_side": 200}, r"input.canvases=\(\(64, 96\),\) has none of at least 64 x 200"),
    "decay": ({"schedule.decay_at": (5,)}, r"schedule.decay_at=\(5,\) must lie between"),
    "one_canvas": ({"input.canvases": (64, 96)}, r"input.canvases=\(64, 96\) must be pairs \(shorter, longer\)"),
    "turned_canvas": ({"input.canvases": ((64, 96), (96, 64))}, "must be pairs"),
    "no_objects": ({"input.max_objects": 0}, "input.max_objects=0 must be at least 1"),
    "no_sides": ({"input.short_sides": ()}, "input.short_sides is empty"),
    "no_cells": ({"input.mask_cells": 0}, "input.mask_cells=0 must be at least 1"),
    "steps": ({"schedule.steps": -1}, "schedule.steps=-1 must be at least 1"),
    "warmup": ({"schedule.warmup_steps": -1}, "schedule.warmup_steps=-1 must be at least 0"),
    "momentum": ({"schedule.momentum": 1.0}, "schedule.momentum=1.0 must be at least 0 and below 1"),
    "no_detections": ({"detector.detections": 0}, "detector.detections=0 must be at least 1"),
    "one_number": ({"detector.rpn_candidates": (20,)}, r"detector.rpn_candidates=\(20,\) must be two numbers"),
    "turned_match": ({"detector.rpn_match": (0.7, 0.3)}, r"detector.rpn_match=\(0.7, 0.3\) .* the lower first"),
    "share": ({"detector.test_nms": 2.0}, "detector.test_nms=2.0 must lie between 0 and 1"),
    "positive": ({"detector.box_positive": 9}, "detector.box_positive=9 is more than detector.box_samples=8"),
    "dtype": ({"dtype": "bf16"}, "dtype='bf16' is unknown; choose one of float32, bfloat16"),
    "rate": ({"schedule.lr": -1.0}, "schedule.lr=-1.0 must be above 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_written(sets, tmp_path, case):
    fields, message = REFUSED[case]
    config = small_config(*sets)
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=message) as refusal:
        train(config, tmp_path / "run")
    assert "\n" not in str(refusal.value) and not (tmp_path / "run").exists()


def test_sets_that_do_not_fit_are_refused(sets, tmp_path, data):
    """Without annotations; of other categories, whose names alone differ; without masks; without objects."""
    contents = paint(tmp_path / "photos", 6, 1)
    renamed = contents | {"categories": [{"id": 3, "name": "red"}, {"id": 7, "name": "green"}]}
    bare = contents | {"annotations": [one | {"segmentation": []} for one in contents["annotations"]]}
    empty = contents | {"annotations": []}
    names = ("renamed", "bare", "empty")
    made = {
        name: prepare_set(tmp_path / "photos", given, tmp_path / name)
        for name, given in zip(names, (renamed, bare, empty), strict=True)
    }
    cases = {
        (str(data), sets[1]): "was prepared without annotations",
        (sets[0], made["renamed"]): r"has other categories than the detector: '(blue|green)' \(id 7\)",
        (made["bare"], sets[1]): "has a mask: train on boxes alone by --config.detector.masks=False",
        (made["empty"], sets[1]): "holds no annotated object",
    }
    for (train_set, test_set), message in cases.items():
        with pytest.raises(UserError, match=message):
            train(small_config(train_set, test_set), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_holds_one_detector(run, sets, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    judged = small_config("", sets[1], "schedule=evaluate")
    judged.schedule.steps, judged.pretrained = 0, str(run)
    with pytest.raises(UserError, match="is the folder of a training: choose another --workdir"):
        train(judged, copy)
    judged.step = 2
    with pytest.raises(UserError, match=r"step=2: leave out --config.step"):
        train(judged, tmp_path / "judged")
    assert _is_finished(copy, small_config(*sets))
    (copy / "detector.safetensors").unlink()
    assert not _is_finished(copy, small_config(*sets))  # it is written again, from the last checkpoint
    with pytest.raises(UserError, match=r"without a detector.safetensors, .* run its own command again"):
        find_detector(str(copy))
    (tmp_path / "other").mkdir()
    shutil.copy(run / "results.json", tmp_path / "other")
    with pytest.raises(UserError, match=r"holds the results.json of an evaluation"):
        train(small_config(*sets), tmp_path / "other")


def test_a_detector_of_other_classes_is_not_judged(run, sets, tmp_path):
    contents = paint(tmp_path / "photos", 4, 1)
    other = contents | {"categories": [*CATEGORIES, {"id": 9, "name": "green"}]}
    config = small_config("", prepare_set(tmp_path / "photos", other, tmp_path / "other"), "schedule=evaluate")
    config.schedule.steps, config.pretrained = 0, str(run)
    with pytest.raises(UserError, match="'green' \\(id 9\\) is only one of"):
        train(config, tmp_path / "judged")
    config.pretrained = "random"
    with pytest.raises(UserError, match="pretrained='random' is no detector"):
        train(config, tmp_path / "judged")
    assert not (tmp_path / "judged").exists()


def test_a_file_without_categories_needs_as_many_classes(run, sets, tmp_path):
    file = read_detector(run / "detector.safetensors")
    write_detector(tmp_path / "mine.safetensors", file.net, file.variables, {})
    config = small_config("", sets[1])
    config.pretrained = str(tmp_path / "mine.safetensors")
    detector, *_ = open_detector(config, open_set(sets[1]))
    assert detector.net.num_classes == 2
    with pytest.raises(UserError, match="has 2 classes and does not name them"):
        open_detector(config, open_set(sets[1])._replace(categories=(*open_set(sets[1]).categories, (9, "x"))))
