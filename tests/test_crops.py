"""Scene pairs and instance boxes against brute force in NumPy; tests/test_random_crops.py has single crops."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from univip_jax import crops
from univip_jax.data.boxes import pairwise_iou
from univip_jax.views import ViewSpec

SPEC = ViewSpec(
    scene_size=32, instance_size=16, num_instances=4, overlap=True, min_proposals=4, num_trials=20,
    crop="torchvision", interpolation="bilinear",
    area=(0.08, 1.0), aspect=(3 / 4, 4 / 3), proposals="stored", pick="random", min_box_side=64,
    canvas=640,
)  # fmt: skip
SIZES = [(1, 1), (3, 2000), (40, 50), (64, 64), (480, 640), (5000, 20)]
WHOLE = np.array([0, 0, 1, 1], np.float32)


MOST = 80  # proposals of a test's photo: others are padding


@cache
def compiled(name: str, *static):
    """A function of univip_jax.crops; `static` are its last arguments."""
    return jax.jit(lambda *args: getattr(crops, name)(*args, *static))


def padded(boxes) -> np.ndarray:
    """Boxes [MOST, 4]; those without area are none."""
    return np.concatenate([np.reshape(boxes, (-1, 4)), np.zeros((MOST - len(boxes), 4))]).astype(np.float32)


def scene_pair(seed, proposals, height, width, spec=SPEC):
    found = compiled("scene_pair", spec)(jax.random.key(seed), padded(proposals), np.float32([height, width]))
    return [np.asarray(x) for x in found]


def instance_boxes(seed, proposals, region, height, width, spec=SPEC):
    args = jax.random.key(1000 + seed), padded(proposals), np.float32(region), np.float32([height, width])
    return np.asarray(compiled("instance_boxes", spec)(*args))


def random_crops(seed, height, width, count, spec=SPEC):
    return np.asarray(
        jax.jit(crops.random_crops, static_argnums=(2, 3))(
            jax.random.key(seed), np.float32([height, width]), count, spec
        )
    )


def some_proposals(count: int, seed: int = 0) -> np.ndarray:
    """Boxes of a tenth to a third of a photo's side."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0.1, 0.33, (count, 2))
    low = rng.uniform(0, 1, (count, 2)) * (1 - sides)
    return np.concatenate([low, low + sides], 1).astype(np.float32)


def holds(region: np.ndarray, box: np.ndarray, slack: float = 1e-6) -> bool:
    """Whether box lies inside region, side by side."""
    return bool((box[:2] >= region[:2] - slack).all() and (box[2:] <= region[2:] + slack).all())


def common(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """The overlap of two boxes and its area."""
    box = np.array([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    return box, max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def brute_force(seed, proposals, height, width, spec):
    """(index of the pair that Algorithm 1 takes, pairs, how many proposals each overlap holds)."""
    pairs = random_crops(seed, height, width, 2 * spec.num_trials, spec).reshape(-1, 2, 4)
    held, areas = [], []
    for first, second in pairs:
        box, area = common(first, second)
        held.append(sum(holds(box, proposal) for proposal in proposals) if area else 0)
        areas.append(area)
    for index, count in enumerate(held):
        if count >= spec.min_proposals and areas[index] > 0:
            return index, pairs, held
    most = max(held)
    return max((i for i, h in enumerate(held) if h == most), key=lambda i: areas[i]), pairs, held


@pytest.mark.parametrize(("height", "width"), [(480, 640), (64, 64)])
@pytest.mark.parametrize("count", [0, 3, 12, 60])
def test_scene_pair_agrees_with_brute_force(height, width, count):
    outcomes = set()
    for seed in range(15):
        proposals = some_proposals(count, seed)
        index, pairs, held = brute_force(seed, proposals, height, width, SPEC)
        scenes, region = scene_pair(seed, proposals, height, width)
        np.testing.assert_array_equal(scenes, pairs[index])
        np.testing.assert_allclose(region, common(*pairs[index])[0], atol=1e-6)
        outcomes.add("first" if held[index] >= SPEC.min_proposals else "most")
    expected = {0: {"most"}, 3: {"most"}, 12: {"first", "most"}, 60: {"first"}}[count]
    assert outcomes <= expected


def test_scene_pair_of_small_crops_falls_back_to_the_fullest_overlap():
    """Few trials of small crops: no pair holds four proposals, some hold one or two."""
    spec, seen = replace(SPEC, num_trials=5, area=(0.1, 0.3)), set()
    for seed in range(40):
        proposals = some_proposals(20, seed)
        index, pairs, held = brute_force(seed, proposals, 480, 640, spec)
        scenes, region = scene_pair(seed, proposals, 480, 640, spec)
        _, area = common(*pairs[index])
        if area * 480 * 640 > 2 * 640:  # else both views may be the first crop
            np.testing.assert_array_equal(scenes, pairs[index])
            seen.add(min(held[index], 4))
        assert holds(scenes[0], region) and holds(scenes[1], region)
    assert {0, 1} <= seen


def test_scene_pair_without_any_overlap_shows_the_first_crop_twice():
    """Crops of a thousandth of the photo, one trial: they hardly ever meet."""
    spec, twice = replace(SPEC, num_trials=1, area=(0.001, 0.001)), 0
    for seed in range(10):
        scenes, region = scene_pair(seed, some_proposals(5), 480, 640, spec)
        first, second = random_crops(seed, 480, 640, 2, spec)
        np.testing.assert_array_equal(scenes[0], first)
        if common(first, second)[1] == 0:
            np.testing.assert_array_equal(scenes[1], first)
            np.testing.assert_array_equal(region, first)
            twice += 1
    assert twice > 5


def test_scene_pair_without_overlap_rule_takes_the_whole_photo_as_region():
    spec = replace(SPEC, overlap=False)
    for seed in range(5):
        scenes, region = scene_pair(seed, some_proposals(9), 480, 640, spec)
        np.testing.assert_array_equal(scenes, random_crops(seed, 480, 640, 2))
        np.testing.assert_array_equal(region, WHOLE)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("count", [0, 2, 80])
def test_instance_boxes_gives_every_photo_k_boxes_inside_its_overlap(height, width, count):
    """Positive boxes, at least min(64 px, half the overlap) wide and high; aspect within 1/3..3 where it fits."""
    proposals = some_proposals(count)
    for seed in range(6):
        scenes, region = scene_pair(seed, proposals, height, width)
        assert all(holds(WHOLE, scene) and holds(scene, region, 1e-5) for scene in scenes)
        boxes = instance_boxes(seed, proposals, region, height, width)
        assert boxes.shape == (4, 4) and boxes.dtype == np.float32
        assert all(holds(region, box, 1e-5) for box in boxes)
        size = (region[2:] - region[:2]) * [height, width]
        stored = np.array([any((box == proposal).all() for proposal in proposals) for box in boxes], bool)
        sides = ((boxes[:, 2:] - boxes[:, :2]) * [height, width])[~stored]
        assert (sides >= np.minimum(64, size / 2) * (1 - 1e-3) - 1e-3).all() and (sides > 0).all()
        if (size >= 64).all():
            ratio = sides[:, 0] / sides[:, 1]
            assert ((ratio > 1 / 3.01) & (ratio < 3.01)).all()
        inside = [proposal for proposal in proposals if holds(region, proposal)]
        assert stored.sum() == min(4, len(inside))  # proposals first, then naive boxes
        assert stored[: stored.sum()].all()


@pytest.mark.parametrize("k", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("proposals", ["stored", "naive"])
def test_naive_boxes_of_a_large_region_keep_the_overlap_rule(k, proposals):
    """Sides of 64 px, aspect within 1/3..3, and an IoU of at most 0.5, in a region of 500 x 600 px."""
    spec = replace(SPEC, num_instances=k, proposals=proposals)
    region = np.array([0.1, 0.2, 0.6, 0.8], np.float32)
    for seed in range(10):
        boxes = instance_boxes(seed, np.zeros((0, 4)), region, 1000, 1000, spec)
        assert boxes.shape == (k, 4)
        sides = (boxes[:, 2:] - boxes[:, :2]) * 1000
        ratio = sides[:, 0] / sides[:, 1]
        assert (sides >= 63.9).all() and ((ratio > 1 / 3.01) & (ratio < 3.01)).all()
        iou = pairwise_iou(boxes, boxes) - 2 * np.eye(k, dtype=np.float32)
        assert not k or iou.max() <= 0.5 + 1e-4
        assert all(holds(region, box, 1e-6) for box in boxes)


def test_naive_boxes_fill_up_away_from_the_proposals():
    region, stored = np.array([0.0, 0.0, 0.9, 0.9], np.float32), np.array([[0.1, 0.1, 0.6, 0.6]], np.float32)
    for seed in range(20):
        boxes = instance_boxes(seed, stored, region, 600, 600)
        np.testing.assert_array_equal(boxes[0], stored[0])
        assert pairwise_iou(boxes[1:], stored).max() <= 0.5 + 1e-4


def test_instance_boxes_never_leave_the_region():
    """Four inside, one out on each side by 0.01, and one that contains the region."""
    region = np.array([0.2, 0.2, 0.8, 0.8], np.float32)
    inside = np.array([[0.2, 0.2, 0.4, 0.4], [0.6, 0.6, 0.8, 0.8], [0.3, 0.5, 0.5, 0.8], [0.5, 0.2, 0.8, 0.4]])
    outside = [[0.19, 0.3, 0.5, 0.5], [0.3, 0.19, 0.5, 0.5], [0.5, 0.5, 0.81, 0.7], [0.5, 0.5, 0.7, 0.81], [0, 0, 1, 1]]
    proposals = np.concatenate([outside, inside]).astype(np.float32)
    orders = set()
    for seed in range(20):
        boxes = instance_boxes(seed, proposals, region, 480, 640)
        chosen = [int(np.flatnonzero((proposals == box).all(1))[0]) for box in boxes]
        assert sorted(chosen) == [5, 6, 7, 8]
        orders.add(tuple(chosen))
    assert len(orders) > 5


def test_random_pick_takes_each_inside_proposal_about_equally_often():
    """8 proposals, 4 picked, 200 draws: each 100 times, std 7."""
    proposals = np.array([[0.1 * i, 0.0, 0.1 * i + 0.15, 0.5] for i in range(8)], np.float32)
    counts = np.zeros(8)
    for seed in range(200):
        for box in instance_boxes(seed, proposals, WHOLE, 480, 640):
            counts[np.flatnonzero((proposals == box).all(1))] += 1
    assert counts.sum() == 800 and (np.abs(counts - 100) < 40).all()


def test_first_pick_takes_the_first_inside_proposals_in_order():
    spec = replace(SPEC, pick="first", num_instances=3)
    proposals = some_proposals(30)
    region = np.array([0.1, 0.1, 0.7, 0.9], np.float32)
    expected = [proposal for proposal in proposals if holds(region, proposal)][:3]
    assert len(expected) == 3
    for seed in range(3):
        np.testing.assert_array_equal(instance_boxes(seed, proposals, region, 480, 640, spec), expected)
