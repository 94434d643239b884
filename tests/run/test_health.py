"""Two alarms for a collapse, which need no label: effective rank and std of the features."""

import jax
import numpy as np
import pytest

from tests.small import BATCH, small_config, state_after
from univip_jax.plan import make_plan
from univip_jax.run.health import effective_rank, make_spread
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


def test_features_that_are_not_finite_have_no_rank():
    assert np.isnan(effective_rank(np.array([[1.0, np.nan], [0.0, 1.0]])))
