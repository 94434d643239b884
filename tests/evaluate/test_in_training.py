"""Evaluation during training: how often k-NN is due, and the probe on demand."""

from dataclasses import replace

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.small import small_config, state_after
from univip_jax.common.errors import UserError
from univip_jax.config import to_spec
from univip_jax.evaluate import in_training as during
from univip_jax.evaluate.features import extract
from univip_jax.evaluate.in_training import InTrainingSpec, make_evaluator
from univip_jax.evaluate.knn import open_for_knn
from univip_jax.plan import make_plan


def test_interval_in_steps_or_epochs():
    spec = to_spec(InTrainingSpec, small_config("unread"), "knn")
    assert spec.interval(231) == 0
    assert replace(spec, every_steps=7).interval(231) == 7
    assert [replace(spec, every_epochs=epochs).interval(231) for epochs in (4.0, 0.5, 0.001)] == [924, 116, 1]
    with pytest.raises(
        UserError,
        match=r"knn\.every_steps=7 and knn\.every_epochs=4\.0: leave one of them at 0: --config\.knn\.every_epochs=0",
    ):
        replace(spec, every_steps=7, every_epochs=4.0).interval(231)


def test_evaluator_probe_equals_scikit_learn_and_may_fail(run, labelled, monkeypatch, capsys):
    config = small_config("unread")
    config.knn.train = config.knn.test = str(labelled)
    config.knn.every_steps, config.knn.k, config.knn.batch_size, config.knn.probe = 2, 3, 8, True
    plan = make_plan(config, 24)
    state = state_after(run, 4)
    evaluate = make_evaluator(config, plan)
    assert evaluate.every == 2
    metrics = evaluate(state)

    encoder = evaluate._encoder
    features, labels = extract(encoder, open_for_knn(str(labelled), str(labelled), [3])[0], 32, 8)
    features = StandardScaler().fit_transform(features)
    expected = 100 * LogisticRegression(max_iter=2000).fit(features, labels).score(features, labels)
    assert metrics["probe/top1"] == pytest.approx(expected)

    def fail(*_):
        raise UserError("it did not end")

    monkeypatch.setattr(during, "fit_logistic", fail)
    assert "probe/top1" not in evaluate(state)
    assert "no probe of this step: it did not end" in capsys.readouterr().err


def test_make_evaluator_returns_none_if_switched_off():
    config = small_config("unread")
    assert make_evaluator(config, make_plan(config, 24)) is None
