"""Eq. 12 on the terms by hand: weights, scale, and terms of weight zero."""

import jax
import numpy as np
import oracles
import pytest

from configs import coco
from univip_jax.config import to_spec
from univip_jax.losses import LossSpec, total_loss
from univip_jax.transport import TransportSpec
from univip_jax.types import OnlineOutputs, TargetOutputs

B, K = 4, 2
TRANSPORT = to_spec(TransportSpec, coco.get_config(), "transport")


def outputs() -> tuple[OnlineOutputs, TargetOutputs]:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return OnlineOutputs(draw(B, 2, 8), draw(B, K, 8), draw(B, 8)), TargetOutputs(draw(B, 2, 8), draw(B, K, 8))


def terms_by_hand(online: OnlineOutputs, target: TargetOutputs) -> dict[str, float]:
    """Means over the batch."""
    found = {"scene": 0.0, "scene_instance": 0.0, "instance": 0.0}
    for os, oi, m, ts, ti in zip(*online, *target, strict=True):
        found["scene"] -= (oracles.cosine(os[0], ts[1]) + oracles.cosine(os[1], ts[0])) / B
        found["scene_instance"] -= (oracles.cosine(m, ts[0]) + oracles.cosine(m, ts[1])) / B
        similarity = oracles.unit(oi) @ oracles.unit(ti).T
        found["instance"] -= np.sum(similarity * oracles.instance_plan(oi, ti, os, ts, TRANSPORT)) / B
    return found


@pytest.mark.parametrize(
    ("weights", "scale"),
    [
        ((1.0, 1.0, 1.0), 2.0),
        ((0.5, 2.0, 3.0), 1.0),
        ((1.0, 0.0, 0.0), 2.0),
        ((0.0, 1.0, 2.0), 0.5),
        ((0.0, 0.0, 3.0), 1.0),
    ],
)
def test_total_loss_is_the_scaled_weighted_sum_and_terms_of_weight_zero_are_absent(weights, scale):
    online, target = outputs()
    names = ("scene", "scene_instance", "instance")
    by_hand = terms_by_hand(online, target)
    total, metrics = jax.jit(total_loss, static_argnums=(2, 3))(online, target, LossSpec(*weights, scale), TRANSPORT)
    np.testing.assert_allclose(
        total, scale * sum(w * by_hand[n] for n, w in zip(names, weights, strict=True)), atol=1e-4
    )
    terms = {name: value for name, value in metrics.items() if name.startswith("train/")}
    assert terms.keys() == {f"train/loss_{name}" for name, weight in zip(names, weights, strict=True) if weight}
    assert any(name.startswith("plan/") for name in metrics) == (weights[2] > 0)
    for name, value in terms.items():
        np.testing.assert_allclose(value, by_hand[name.removeprefix("train/loss_")], atol=2e-5)
