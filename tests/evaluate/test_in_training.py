"""What a run says of its features as it goes: spread without labels, how often k-NN looks, and the probe on demand."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.small import BATCH, small_config, state_after
from univip_jax.common.errors import UserError
from univip_jax.config import to_spec
from univip_jax.evaluate import in_training as during
from univip_jax.evaluate.features import extract
from univip_jax.evaluate.in_training import KnnDuringTraining, KnnSpec, make_spread
from univip_jax.evaluate.knn import open_for_knn
from univip_jax.evaluate.neighbours import effective_rank
from univip_jax.plan import make_plan
from univip_jax.sharding import by_batch, make_mesh, replicated
from univip_jax.types import Batch
from univip_jax.weights.encoder import Encoder, float32_backbone


@pytest.mark.parametrize(
    ("features", "rank"),
    [
        (np.eye(6, 9), 6.0),
        (np.outer(np.arange(1.0, 7.0), np.ones(9)), 1.0),
        (np.diag([3.0, 0.0, 1.0]), 4 / 3**0.75),  # exp of the entropy of 3/4 and 1/4
    ],
)
def test_effective_rank_by_hand(features, rank):
    assert effective_rank(features) == pytest.approx(rank, rel=1e-4)


def test_a_collapsed_network_shows_as_such_and_a_healthy_one_not(run):
    """The healthy one's values are NumPy's on the same features; of the other, every photo leaves the same ones."""
    plan, mesh = make_plan(small_config("unread"), 24), make_mesh()
    state = jax.device_put(state_after(run, 4), replicated(mesh))
    scenes = np.random.default_rng(0).integers(0, 256, (BATCH, 2, 32, 32, 3), np.uint8)
    batch = jax.device_put(Batch(scenes, np.zeros((BATCH, 4, 16, 16, 3), np.uint8)), by_batch(mesh))
    spread = make_spread(plan.model, mesh)

    variables = {kind: getattr(state, kind)["encoder"]["backbone"] for kind in ("params", "batch_stats")}
    encoder = Encoder(float32_backbone(plan.model), variables, image_size=32, source="", step=0)
    features = np.asarray(encoder(scenes[:, 0]), np.float64)
    share = np.sqrt(np.clip(np.linalg.eigvalsh(features @ features.T), 1e-12, None))
    share /= share.sum()
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    healthy = spread(state, batch)
    assert healthy["features/effective_rank"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-3)
    assert healthy["features/std"] == pytest.approx(directions.std(0).mean() * features.shape[1] ** 0.5, rel=1e-3)
    assert healthy["features/effective_rank"] > 3
    assert healthy["features/std"] > 0.1

    # Without weights only the biases speak, whatever the photo.
    params = jax.tree_util.tree_map_with_path(lambda path, x: 0 * x + (path[-1].key == "bias"), state.params)
    collapsed = spread(state.replace(params=params), batch)
    assert collapsed["features/effective_rank"] == pytest.approx(1, abs=1e-3)
    assert collapsed["features/std"] == pytest.approx(0, abs=1e-3)


def test_evaluations_come_every_n_steps_or_epochs():
    spec = to_spec(KnnSpec, small_config("unread"), "knn")
    assert spec.interval(231) == 0
    assert replace(spec, every_steps=7).interval(231) == 7
    assert [replace(spec, every_epochs=epochs).interval(231) for epochs in (4.0, 0.5, 0.001)] == [924, 116, 1]
    with pytest.raises(UserError, match=r"knn\.every_steps=7 and knn\.every_epochs=4\.0: leave one of them at 0"):
        replace(spec, every_steps=7, every_epochs=4.0).interval(231)


def test_the_probe_is_scikit_learns_and_one_that_fails_ends_no_run(run, labelled, monkeypatch, capsys):
    config = small_config("unread")
    config.knn.train = config.knn.test = str(labelled)
    config.knn.k, config.knn.batch_size, config.knn.probe = 3, 8, True
    plan = make_plan(config, 24)
    state, spec = state_after(run, 4), to_spec(KnnSpec, config, "knn")
    evaluate = KnnDuringTraining(spec, plan.model, 32)
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


def test_features_that_are_not_finite_have_no_rank():
    assert np.isnan(effective_rank(np.array([[1.0, np.nan], [0.0, 1.0]])))
