"""The losses of a step by hand, where every candidate is drawn."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.detection.test_detector_losses import cross_entropy
from tests.detection.test_detector_matching import by_hand
from tests.detection.test_detector_step import CANVAS, CLASSES, NET, ROWS, batch, float64, variables  # noqa: F401 (fixtures)
from univip_jax.detection.anchors import STRIDES, anchors
from univip_jax.detection.matching import NEGATIVE, POSITIVE
from univip_jax.detection.roi_align import pool_regions
from univip_jax.detection.spec import DetectorSpec
from univip_jax.detection.step import Detector, losses, on_canvas

MANY = 100_000
ALL = Detector(NET, DetectorSpec(
    channels=4, head_width=8, rpn_candidates=(40, 40), proposals=20, rpn_samples=MANY, rpn_positive=MANY,
    box_samples=MANY, box_positive=MANY, mask_bins=7, rpn_match=(0.3, 0.5), box_match=0.2,
))  # fmt: skip


def test_losses_by_hand(variables, batch):  # noqa: F811
    """Every candidate is drawn, so no key matters: matching, targets, divisors and losses object by object."""

    def outputs(variables, batch):
        def run(method, *arguments):
            return NET.apply(variables, *arguments, method=method, mutable=["batch_stats"])[0]

        levels = run("levels", on_canvas(batch.images, batch.sizes), True)
        logits, deltas = run("propose", levels)
        proposals = ALL.propose(logits, deltas, batch.sizes, CANVAS, train=True)
        candidates = jnp.concatenate([proposals.boxes, batch.boxes], 1)
        pooled = pool_regions(levels[:4], candidates, STRIDES[:4], 7).reshape(-1, 7, 7, 4)
        heads = *run("classify", pooled, True), run("segment", pooled, True)
        heads = [x.reshape(ROWS, -1, *x.shape[1:]) for x in heads]
        found = losses(ALL, variables["params"], variables["batch_stats"], batch, jax.random.key(0))[:2]
        return found, [jnp.concatenate(x, 1) for x in (logits, deltas)], (candidates, proposals.exists), heads

    (sums, counts), rpn, (candidates, real), heads = jax.device_get(jax.jit(outputs)(variables, batch))
    expected, regions, with_object = np.zeros(5), 0, 0
    references = np.concatenate(anchors(*CANVAS)).astype(np.float64)
    for row in range(ROWS):
        objects = batch.boxes[row][batch.exists[row]]
        usable = np.concatenate([real[row], batch.exists[row]])
        if len(objects):
            owners, kinds = by_hand(objects, references, 0.3, 0.5, True)
            owner, kind = by_hand(objects, candidates[row], 0.2, 0.2, False)
        else:
            kinds, kind = np.full(len(references), NEGATIVE), np.full(len(usable), NEGATIVE)
        for anchor, one in enumerate(kinds):
            if one in (POSITIVE, NEGATIVE):
                expected[0] += cross_entropy(rpn[0][row, anchor], one == POSITIVE)
            if one == POSITIVE:
                wanted = coded(objects[owners[anchor]], references[anchor], (1, 1, 1, 1))
                expected[1] += np.abs(rpn[1][row, anchor] - wanted).sum()
        for region in np.flatnonzero(usable):
            logits = heads[0][row, region]
            label = batch.classes[row, owner[region]] if kind[region] == POSITIVE else CLASSES
            expected[2] += np.log(np.exp(logits).sum()) - logits[label]
            regions += 1
            if kind[region] == POSITIVE:
                box = candidates[row, region]
                wanted = coded(objects[owner[region]], box, (10, 10, 5, 5))
                expected[3] += np.abs(heads[1][row, region, label] - wanted).sum()
                pixels = heads[2][row, region, ..., label]
                target = covered(objects[owner[region]], box, 14)
                expected[4] += np.mean(
                    [cross_entropy(*pair) for pair in zip(pixels.ravel(), target.ravel(), strict=True)]
                )
                with_object += 1
    names = ("rpn_class", "rpn_box", "class", "box", "mask")
    np.testing.assert_allclose([sums[name] for name in names], expected, rtol=1e-6)
    assert [counts[name] for name in names] == [MANY * ROWS, MANY * ROWS, regions, regions, with_object]
    assert with_object > 6 and regions < usable.size * ROWS


def coded(box, reference, weights):
    """Detectron2's deltas."""
    (y0, x0, y1, x1), (v0, u0, v1, u1) = box, reference
    moves = ((x0 + x1) / 2 - (u0 + u1) / 2) / (u1 - u0), ((y0 + y1) / 2 - (v0 + v1) / 2) / (v1 - v0)
    return np.multiply([*moves, np.log((x1 - x0) / (u1 - u0)), np.log((y1 - y0) / (v1 - v0))], weights)


def covered(box, region, side, cells=16):
    """Which centres of a region's grid lie in a box: interpolated between its mask, of ones, and 0 beyond it."""
    inside = []
    for axis in (0, 1):
        centres = region[axis] + (np.arange(side) + 0.5) / side * (region[axis + 2] - region[axis])
        place = (centres - box[axis]) / (box[axis + 2] - box[axis]) * cells - 0.5
        inside.append(np.clip(np.minimum(place + 1, cells - place), 0, 1))
    return np.outer(*inside) >= 0.5
