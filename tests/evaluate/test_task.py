"""The skeleton of an evaluation: a workdir belongs to one config and one pair of sets, and is finished once."""

import json

import pytest

from configs import knn, svm
from univip_jax.common.errors import UserError
from univip_jax.evaluate import knn as knn_task
from univip_jax.evaluate import svm as svm_task
from univip_jax.evaluate.task import choose_best


def small(config, labelled):
    config.pretrained, config.data.train, config.data.test = "random", str(labelled), str(labelled)
    config.image_size, config.batch_size = 32, 8
    config.model.backbone, config.model.width, config.model.stem = "resnet10", 0.125, "small"
    return config


def small_knn(labelled):
    config = small(knn.get_config(), labelled)
    config.k = (3,)
    return config


def small_svm(labelled):
    config = small(svm.get_config(), labelled)
    config.low_shot, config.num_workers = (), 1
    return config


@pytest.mark.parametrize(
    ("evaluate", "make_config", "field", "value", "change"),
    [
        (knn_task.evaluate, small_knn, "temperature", 0.5, r"temperature was 0\.07 and is now 0\.5"),
        (svm_task.evaluate, small_svm, "seed", 3, r"seed was 0 and is now 3"),
    ],
)
def test_workdir_of_another_config_is_refused(labelled, tmp_path, evaluate, make_config, field, value, change):
    config = make_config(labelled)
    evaluate(config, tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    config[field] = value
    with pytest.raises(UserError, match=f"{change}; choose another --workdir"):
        evaluate(config, tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before


def test_folder_of_an_older_version_is_refused(labelled, tmp_path, capsys):
    config = small_knn(labelled)
    knn_task.evaluate(config, tmp_path)
    capsys.readouterr()
    knn_task.evaluate(config, tmp_path)
    assert "results.json is there already" in capsys.readouterr().out
    (tmp_path / "settings.json").unlink()
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(UserError, match=r"holds an evaluation of an older version: no settings\.json; choose another"):
        knn_task.evaluate(config, tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before


def test_features_alone_bind_no_workdir(labelled, tmp_path):
    """After an interruption, settings may change: a smaller batch, as memory allows."""
    config = small_knn(labelled)
    knn_task.evaluate(config, tmp_path)
    (tmp_path / "results.json").unlink()
    config.batch_size = 4
    knn_task.evaluate(config, tmp_path)
    assert json.loads((tmp_path / "settings.json").read_text())["batch_size"] == 4
    assert len(list((tmp_path / "features").glob("*.rows"))) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", -1, "seed=-1 must be at least 0"),
        ("batch_size", 0, "batch_size=0 must"),
        ("k", (3, 0), "k=[3, 0] must"),
    ],
)
def test_numbers_that_are_too_small_are_refused(labelled, tmp_path, field, value, message):
    config = small_knn(labelled)
    config[field] = value
    with pytest.raises(UserError) as error:
        knn_task.evaluate(config, tmp_path)
    assert message in str(error.value)


def test_choose_best_takes_the_first_of_the_highest():
    points = [{"lr": lr} for lr in (0.1, 0.2, 0.3, 0.4)]
    assert choose_best(points, [None, 50.0, 70.0, 70.0]) == 2
    with pytest.raises(UserError, match=r"every point of the grid diverged: .*0\.4.*; lower --config\.lr"):
        choose_best(points, [None] * 4)
