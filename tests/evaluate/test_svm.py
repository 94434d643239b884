"""The whole protocol on VOC's layout, against scikit-learn on the cached features; and sets too small for it."""

import json
import shutil

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.svm import LinearSVC

from configs import svm
from univip_jax.common.errors import UserError
from univip_jax.data.labelled.voc import read_voc
from univip_jax.evaluate.svm import evaluate


def small_config(train: str, test: str):
    config = svm.get_config()
    config.pretrained, config.data.train, config.data.test = "random", train, test
    config.image_size, config.batch_size, config.num_workers = 32, 8, 1
    config.model.backbone, config.model.width, config.model.stem = "resnet10", 0.125, "small"
    config.low_shot, config.num_draws, config.low_shot_costs = (1, 2), 2, (1.0, 0.25)
    return config


@pytest.fixture(scope="module")
def result(voc, tmp_path_factory):
    folder = tmp_path_factory.mktemp("svm")
    config = small_config(f"{voc}:trainval", f"{voc}:test")
    evaluate(config, folder)
    return config, folder, json.loads((folder / "results.json").read_text())


def rows(folder, count: int) -> np.ndarray:
    """Cached features of the set with so many photos, of length 1: 4 windows of 64 channels, then two int8 labels."""
    (path,) = (p for p in folder.glob("features/*.rows") if p.stat().st_size == count * (4 * 256 + 2))
    features = np.fromfile(path, [("features", "<f4", 256), ("label", "i1", 2)])["features"].astype(np.float64)
    return features / (np.linalg.norm(features, axis=1) + 1e-5)[:, None]


def test_svm_full_equals_scikit_learn_grid_search(result, voc):
    _, folder, found = result
    train, test = rows(folder, 12), rows(folder, 10)
    (_, labels, classes, _), (_, test_labels, _, _) = read_voc(voc, "trainval"), read_voc(voc, "test")
    for index, name in enumerate(classes):
        svc = LinearSVC(class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, random_state=0)
        grid = {"C": [1.0, 10.0, 100.0]}
        search = GridSearchCV(svc, grid, cv=3, scoring="average_precision").fit(
            train, np.where(labels[:, index] > 0, 1, -1)
        )
        points = [point for point in found["grid"] if point.get("class") == name]
        expected = 100 * search.cv_results_["mean_test_score"]
        np.testing.assert_allclose([point["held_out"] for point in points], expected, atol=1e-6)
        assert [point["C"] for point in points] == grid["C"]
        assert found["chosen"][name] == search.best_params_["C"]
        counts = test_labels[:, index] != 0
        hits = (test_labels[counts, index] == 1)[np.argsort(-search.decision_function(test[counts]))]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        ap = np.mean([precision[rank:].max() for rank in np.flatnonzero(hits)])
        assert found["ap"][name] == pytest.approx(100 * ap, abs=1e-6)
    assert found["map"] == pytest.approx(np.mean(list(found["ap"].values())))
    assert 50 < found["map"] < 100  # otherwise nothing is compared


def test_svm_results_record_settings_and_draws(result, voc):
    _, _, found = result
    assert (found["protocol"], found["classes"], found["image_size"], found["seed"]) == ("svm_voc07", 2, 32, 0)
    assert (found["train"]["images"], found["test"]["name"]) == (12, f"{voc}:test")
    assert list(found["low_shot"]) == ["1", "2"]
    for k, few in found["low_shot"].items():
        assert few["mean"] == pytest.approx(np.mean(few["draws"])) and len(few["draws"]) == 2
        assert few["std"] == pytest.approx(np.std(few["draws"]))
        points = {point["C"]: point["held_out"] for point in found["grid"] if point.get("low_shot") == int(k)}
        assert few["C"] == max(points, key=points.get) and set(points) == {1.0, 0.25}


def test_svm_with_several_processes_is_the_same(result, tmp_path):
    """Workers are new processes; the features come from the cache."""
    config, folder, found = result
    shutil.copytree(folder / "features", tmp_path / "features")
    config.num_workers = 2
    evaluate(config, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == found


def test_svm_with_one_class_per_photo(labelled, tmp_path):
    config = small_config(str(labelled), str(labelled))
    config.low_shot = ()
    evaluate(config, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["ap"] == {"dark": 100.0, "light": 100.0}
    assert found["low_shot"] == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low_shot": (1, 7)}, r"low_shot=7 takes 7 photos with class 'cat' and 7 without: .* has 7 and 5"),
        ({"low_shot": (0,)}, r"low_shot=0 takes 0 photos"),
        ({"costs": ()}, r"--config\.costs and --config\.low_shot_costs need a value each"),
    ],
)
def test_svm_refuses_impossible_settings(result, tmp_path, change, message):
    config, folder, _ = result
    config = config.copy_and_resolve_references()
    config.update(change)
    shutil.copytree(folder / "features", tmp_path / "features")
    with pytest.raises(UserError, match=message):
        evaluate(config, tmp_path)


def test_svm_names_a_class_too_rare_for_folds_or_test(voc, tmp_path):
    copy = shutil.copytree(voc, tmp_path / "copy")
    (copy / "ImageSets" / "Main" / "few.txt").write_text("000001\n000003\n000005\n000002\n000004\n")
    (copy / "ImageSets" / "Main" / "none.txt").write_text("000001\n000010\n")
    config = small_config(f"{copy}:few", f"{voc}:test")
    with pytest.raises(UserError, match=r"class 'cat' is in 3 of the 5 photos of .*:few: 3 folds need 3"):
        evaluate(config, tmp_path)
    config.data.train, config.data.test = f"{voc}:trainval", f"{copy}:none"
    with pytest.raises(UserError, match=r"class 'dog' is in no photo of .*:none"):
        evaluate(config, tmp_path)
