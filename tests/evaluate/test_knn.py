"""The weighted vote against a loop in NumPy, ties included; and the whole evaluation against that loop."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import knn as knn_config
from univip_jax import load_encoder
from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import open_labelled
from univip_jax.evaluate import neighbours
from univip_jax.evaluate.features import extract
from univip_jax.evaluate.knn import evaluate
from univip_jax.evaluate.neighbours import find_neighbours, vote
from univip_jax.run.checkpoint import Checkpoints


def features(count: int, seed: int) -> np.ndarray:
    """Of different lengths, which must not matter."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, 6)) * rng.uniform(0.1, 10, (count, 1))).astype(np.float32)


def predict(train, labels, test, *, k, **options) -> np.ndarray:
    return vote(find_neighbours(train, test, k), labels, **options)


def by_hand(train, labels, test, k, temperature, num_classes) -> list[int]:
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train.astype(float), test.astype(float)))
    predictions = []
    for row in test:
        similarity = train @ row
        votes = np.zeros(num_classes)
        for neighbour in np.argsort(-similarity, kind="stable")[:k]:  # of equals the earlier
            votes[labels[neighbour]] += np.exp((similarity[neighbour] - similarity.max()) / temperature)
        predictions.append(int(votes.argmax()))
    return predictions


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (60, 0.5)])
def test_vote_equals_numpy(k, temperature):
    train, test = features(60, 0), features(300, 1)
    labels = np.random.default_rng(2).integers(0, 4, 60)
    found = predict(train, labels, test, k=k, temperature=temperature, num_classes=4)
    assert found.shape == (300,)
    expected = by_hand(train, labels, test, k, temperature, 4)
    assert len(set(expected)) == 4
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (200, 1.0)])
@pytest.mark.parametrize("rows", [(65_536, 1024), (64, 32)])
def test_find_neighbours_breaks_ties_by_the_earlier_photo(monkeypatch, k, temperature, rows):
    """Four of 8 numbers are 1 or -1: cosines are multiples of 1/4, without rounding, and most of 500 are equal."""
    monkeypatch.setattr(neighbours, "_TRAIN_ROWS", rows[0])
    monkeypatch.setattr(neighbours, "_TEST_ROWS", rows[1])
    rng = np.random.default_rng(6)
    signs = rng.choice([-1.0, 1.0], (600, 8)) * rng.permuted(np.tile([1.0, 0.0], (600, 4)), axis=1)
    train, test = signs[:500].astype(np.float32), signs[500:].astype(np.float32)
    labels = rng.integers(0, 10, 500)
    expected = by_hand(train, labels, test, k, temperature, 10)
    found = predict(train, labels, test, k=k, temperature=temperature, num_classes=10)
    np.testing.assert_array_equal(found, expected)
    backwards = by_hand(train[::-1], labels[::-1], test, k, temperature, 10)
    assert backwards != expected  # the order of equals decides some


def test_vote_breaks_ties_by_the_lower_class():
    train = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    found = predict(train, np.array([2, 1, 0]), train[:1], k=2, temperature=0.07, num_classes=3)
    assert found.tolist() == [1]


def test_vote_of_a_near_neighbour_against_two_far_ones():
    """Cosines 1, 0.6, 0.6 at T = 0.07: exp(14.3) against 2 exp(8.6); at T = 10 two votes win."""
    train = np.array([[2.0, 0.0], [0.6, 0.8], [0.3, -0.4]], np.float32)
    options = {"labels": np.array([0, 1, 1]), "test": np.array([[5.0, 0.0]], np.float32), "k": 3, "num_classes": 2}
    assert predict(train, temperature=0.07, **options).tolist() == [0]
    assert predict(train, temperature=10.0, **options).tolist() == [1]


def test_vote_with_a_tiny_temperature_does_not_overflow():
    """exp(1 / 0.001) is infinite; by then the nearest neighbour decides alone."""
    train, test = features(40, 3), features(50, 4)
    labels = np.random.default_rng(5).integers(0, 3, 40)
    found = predict(train, labels, test, k=10, temperature=1e-3, num_classes=3)
    np.testing.assert_array_equal(found, predict(train, labels, test, k=1, temperature=0.07, num_classes=3))


@pytest.mark.parametrize("k", [0, 5])
def test_find_neighbours_refuses_k_out_of_range(k):
    with pytest.raises(UserError, match=rf"k={k} must be in 1\.\.4, the number of training photos"):
        predict(features(4, 0), np.zeros(4, int), features(1, 1), k=k, temperature=0.07, num_classes=2)


def run_config(run, labelled):
    config = knn_config.get_config()
    config.pretrained, config.data.train, config.data.test = str(run), str(labelled), str(labelled)
    config.k, config.batch_size = (5, 24), 8
    return config


def test_knn_results_equal_numpy_votes_on_the_features_of_a_run(run, labelled, tmp_path):
    evaluate(run_config(run, labelled), tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    features, labels = extract(load_encoder(run), open_labelled(str(labelled)), 32, 8)
    for k in (5, 24):
        expected = by_hand(features, labels, features, k, 0.07, 2)
        assert found[f"top1_k{k}"] == pytest.approx(100 * np.mean(np.array(expected) == labels))
    assert (found["top1"], found["step"], found["image_size"]) == (found["top1_k5"], 4, 32)
    assert (found["grid"], found["chosen"]) == ([{"k": 5, "held_out": None}, {"k": 24, "held_out": None}], {"k": 5})


def test_knn_refuses_k_above_the_photos_before_it_computes(run, labelled, tmp_path):
    config = run_config(run, labelled)
    config.k = (5, 25)
    with pytest.raises(UserError, match=r"k=25 is more than the 24 photos of .*; lower it: --config\.k=20$"):
        evaluate(config, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("field", "value"), [("backbone", "resnet18"), ("width", 0.25)])
def test_knn_refuses_weights_of_another_backbone(run, labelled, tmp_path, field, value):
    """More blocks than were saved, or wider ones."""
    copy = shutil.copytree(run, tmp_path / "run")
    written = json.loads((copy / "config.json").read_text())
    written["model"][field] = value
    (copy / "config.json").write_text(json.dumps(written))
    with pytest.raises(
        UserError, match=r"4 holds another backbone than config\.json of the run describes: .* differ in"
    ):
        evaluate(run_config(copy, labelled), tmp_path / "knn")


def test_restore_part_refuses_a_smaller_backbone(run):
    """Fewer blocks than were saved would give features, and wrong ones."""
    like = jax.eval_shape(lambda tree: tree, load_encoder(run).variables)
    del like["params"]["layer4_0"]
    part = {kind: {"encoder": {"backbone": tree}} for kind, tree in like.items()}
    with Checkpoints(run) as checkpoints, pytest.raises(UserError, match=r"another backbone .* as params.*layer4_0/"):
        checkpoints.restore_part(4, part)


def test_knn_refuses_the_folder_of_an_evaluation_as_a_run(run, labelled, tmp_path):
    evaluate(run_config(run, labelled), tmp_path / "knn")
    with pytest.raises(UserError, match=r"knn is no run: it has no config\.json; name the --workdir of a"):
        evaluate(run_config(tmp_path / "knn", labelled), tmp_path / "again")
