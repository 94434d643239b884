"""A step of a tiny detector: the same on any number of devices, and never harmed by NaN."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.weights.random_weights import draw
from univip_jax.detection.schedule import ScheduleSpec, learning_rate, make_optimizer
from univip_jax.detection.spec import DetectorSpec
from univip_jax.detection.step import Detector, on_canvas, train_step
from univip_jax.models.mask_rcnn import MaskRCNN, init
from univip_jax.models.resnet import ResNet
from univip_jax.sharding import by_batch, make_mesh, replicated
from univip_jax.types import DetectionBatch, DetectorState

CANVAS, ROWS, OBJECTS, CLASSES = (64, 96), 4, 3, 2
SPEC = DetectorSpec(
    channels=4, head_width=8, rpn_candidates=(40, 40), proposals=20, rpn_samples=16, rpn_positive=6, box_samples=10,
    box_positive=3, mask_bins=7, rpn_match=(0.3, 0.5),
)  # fmt: skip
NET = MaskRCNN(ResNet("resnet10", 0.0625, dtype=jnp.float64), CLASSES, channels=4, head_width=8, dtype=jnp.float64)
DETECTOR = Detector(NET, SPEC)
OPTIMIZER = make_optimizer(spec := ScheduleSpec(10, (), warmup_steps=0), learning_rate(spec, ROWS))


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def variables():
    """Values of trained size, float64."""
    drawn = draw(jax.eval_shape(partial(init, NET), jax.random.key(0)), 0)
    return jax.tree.map(lambda x: np.asarray(x, np.float64), drawn)


@pytest.fixture(scope="module")
def batch():
    """Photos that do not fill their canvas, with 3, 1, 0 and 2 rectangles; each mask fills its box."""
    rng = np.random.default_rng(0)
    exists = np.arange(OBJECTS) < np.array([[3], [1], [0], [2]])
    corners, sides = rng.uniform(0, 20, (ROWS, OBJECTS, 2)), rng.uniform(16, 36, (ROWS, OBJECTS, 2))
    boxes = np.where(exists[..., None], np.concatenate([corners, corners + sides], -1), 0)
    images = rng.integers(0, 255, (ROWS, *CANVAS, 3), dtype=np.uint8)
    sizes = np.array([[64, 90], [60, 96], [64, 96], [58, 80]], np.float64)
    masks = np.where(exists[..., None, None], np.uint8(255), np.uint8(0)) * np.ones([16, 2], np.uint8)
    classes = rng.integers(0, CLASSES, (ROWS, OBJECTS))
    return DetectionBatch(images, sizes, boxes, classes, masks, exists, np.array([11, 5, 8, 2]))


@pytest.fixture(scope="module")
def steps(variables):
    """Compiled steps on one device and on four, each from the same state to (state, metrics) as NumPy arrays."""
    opt_state = OPTIMIZER.init(variables["params"])
    start = DetectorState(np.int32(0), variables["params"], variables["batch_stats"], opt_state, np.int32(0))
    compiled = {}
    for count in (1, 4):
        mesh = make_mesh(jax.devices()[:count])
        everywhere, split = replicated(mesh), by_batch(mesh)
        step = partial(train_step, detector=DETECTOR, optimizer=OPTIMIZER, seed=0, mesh=mesh)
        jitted = jax.jit(step, in_shardings=(everywhere, split), out_shardings=(everywhere, everywhere))

        def run(batch, state=start, jitted=jitted, everywhere=everywhere, split=split):
            return jax.device_get(jitted(jax.device_put(state, everywhere), jax.device_put(batch, split)))

        compiled[count] = run
    return start, compiled


def assert_equal(one, other, tolerance=0.0):
    """Trees, leaf by leaf, with the path of what differs."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))


def test_one_device_and_four_agree(steps, batch):
    """Weights, statistics, momenta and all losses."""
    start, compiled = steps
    (one, metrics), (four, others) = compiled[1](batch), compiled[4](batch)
    assert_equal((one, metrics), (four, others), 1e-10)
    assert metrics["train/bad_steps"] == 0 and one.step == 1
    assert all(metrics[f"train/loss_{name}"] > 0 for name in ("rpn_class", "rpn_box", "class", "box", "mask"))
    total = sum(metrics[f"train/loss_{name}"] for name in ("rpn_class", "rpn_box", "class", "box", "mask"))
    np.testing.assert_allclose(metrics["train/loss"], total)
    changed = [(a != b).any() for a, b in zip(*map(jax.tree.leaves, (one.params, start.params)), strict=True)]
    assert np.mean(changed) > 0.9  # but for units that are 0 in all regions


def test_a_photos_samples_do_not_depend_on_its_place(steps, batch):
    """In another order, on other devices; they do depend on the photo."""
    order = np.array([2, 3, 1, 0])
    _, metrics = steps[1][4](batch)
    _, permuted = steps[1][4](jax.tree.map(lambda x: x[order], batch))
    assert_equal(metrics, permuted, 1e-10)
    _, others = steps[1][4](batch._replace(photos=batch.photos + 1))
    assert abs(others["train/loss_class"] - metrics["train/loss_class"]) > 1e-6


def test_samples_depend_on_the_step(steps, batch):
    start, compiled = steps
    _, first = compiled[4](batch)
    _, second = compiled[4](batch, start.replace(step=np.int32(1)))
    assert abs(first["train/loss_class"] - second["train/loss_class"]) > 1e-6


def test_without_any_object(steps, batch):
    """All is background: two losses are left, and the update is finite."""
    empty = batch._replace(boxes=0 * batch.boxes, masks=0 * batch.masks, exists=np.zeros_like(batch.exists))
    state, metrics = steps[1][4](empty)
    assert metrics["train/bad_steps"] == 0 and metrics["train/loss_rpn_class"] > 0 and metrics["train/loss_class"] > 0
    assert [metrics[f"train/loss_{name}"] for name in ("rpn_box", "box", "mask")] == [0, 0, 0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_step_that_is_not_finite_changes_nothing(steps, batch):
    """Nor the statistics of norms, which are finite; it is counted."""
    start, compiled = steps
    broken = jax.tree.map(np.copy, start.params)
    broken["box"]["logits"]["bias"][0] = np.nan
    broken = start.replace(params=broken, step=np.int32(7), bad_steps=np.int32(2))
    state, metrics = compiled[4](batch, broken)
    assert np.isnan(metrics["train/loss"]) and metrics["train/bad_steps"] == 3
    assert_equal(state, broken.replace(step=np.int32(8), bad_steps=np.int32(3)))


def test_pixels_beyond_the_photo_are_the_mean_colour(batch):
    """0 after the mean and deviation of ImageNet, as Detectron2 pads."""
    found = np.asarray(jax.jit(on_canvas)(batch.images, batch.sizes))
    expected = (batch.images - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    for row, (height, width) in enumerate(batch.sizes.astype(int)):
        np.testing.assert_allclose(found[row, :height, :width], expected[row, :height, :width], atol=1e-5)
        assert not found[row, height:].any() and not found[row, :, width:].any()
