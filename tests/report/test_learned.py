"""What the page shows of a run's photos: the sample, neighbours, and what it says where there are none."""

import json
import re
import shutil

import numpy as np
import pytest

from tests.small import small_config
from univip_jax.config import to_spec
from univip_jax.data.boxes import pairwise_iou
from univip_jax.data.index import Index, evenly_spread
from univip_jax.data.pipeline import preview
from univip_jax.data.records import open_dataset
from univip_jax.report.neighbours import cosines, nearest
from univip_jax.report.page import write_report
from univip_jax.report.photo_map import draw_map, flatten
from univip_jax.report.recognition import draw_recognition, recognition
from univip_jax.report.sample import Photo, read_sample
from univip_jax.report.similarity import draw_heat, point_of, similarity
from univip_jax.views import ViewSpec


def test_page_shows_photos_before_and_after(page):
    text = page.read_text()
    assert "24 of 24 photos, evenly spread" in text and "its first step (random weights)\nand after step 4." in text
    rows = re.findall(r'<div class="row">.*?</div></div></div>', text)
    assert len(rows) == 24  # 12 photos and 12 instances
    for row in rows:
        query, *neighbours = re.findall(r'title="(\d+\.png)"', row)
        assert len(neighbours) == 10 and query not in neighbours
        for side in row.split("<h4>after"):
            found = [float(cosine) for cosine in re.findall(r"<figcaption>(-?\d\.\d\d)<", side)]
            assert len(found) == 5 and found == sorted(found, reverse=True)
    assert re.search(r"in <b>\d+%</b> of the cases; before training in \d+%, by chance in 4\.2%", text)
    assert text.count('alt="map of photos, ') == 2 and "By principal components; the 12 photos" in text
    maps = re.findall(r'<div class="row two">.*?</div></div></div>', text)
    assert len(maps) == 8 and all(row.count("similarity in res4") == 2 for row in maps)
    # In the photo itself the point is as similar as can be.
    assert all(len(re.findall(r"res[45]: -?\d\.\d\d to 1\.00<", row)) == 4 for row in maps[::2])


@pytest.mark.parametrize(
    ("gone", "line"), [(True, "No photos are drawn: data set gone: no such folder"), (False, "is not the data set")]
)
def test_page_without_the_runs_photos_says_so(run, tmp_path, gone, line, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    if gone:
        config["data"]["train"] = "gone"
        (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    else:
        other = open_dataset(config["data"]["train"])._replace(fingerprint="0" * 64)
        monkeypatch.setattr("univip_jax.report.learned.open_dataset", lambda root: other)
    path, warned = write_report(tmp_path / "run", photos=6)
    assert any(line in found for found in warned)
    assert "your photos" not in path.read_text() and "loss and its terms" in path.read_text()


def test_neighbours_are_the_nearest_of_other_photos():
    """Five directions in the plane, of photos 0, 0, 1, 2, 3: the angles of the last three to the first are known."""
    angles = np.radians([0, 1, 60, -30, 180])
    features = 7 * np.stack([np.cos(angles), np.sin(angles)], 1)
    found = nearest(cosines(features, np.array([0, 0, 1, 2, 3])), 0)
    assert [place for place, _ in found] == [3, 2, 4]
    np.testing.assert_allclose([cosine for _, cosine in found], [np.sqrt(0.75), 0.5, -1], atol=1e-12)


def test_sample_is_evenly_spread_and_knows_how_much_training_scenes_overlap(data):
    views = to_spec(ViewSpec, small_config(data), "views")
    dataset = open_dataset(data)
    sample = read_sample(dataset, views, seed=0, count=24)
    shown = [preview(dataset, Index(dataset, 0, 4), views, step, 4) for step in range(6)]  # the first epoch
    photos = [photo for batch in shown for photo in batch]
    expected = [pairwise_iou(*np.split(photo.geometry.scenes, 2))[0, 0] for photo in photos]
    assert sample.overlap == pytest.approx(np.mean(expected), abs=1e-5)
    order = np.concatenate([Index(dataset, 0, 4).rows(step).records for step in range(6)])
    crops = np.stack([photo.views.scenes for photo in photos])
    # The accelerator's weights are whole 256ths, Pillow's are not.
    assert np.abs(sample.pairs[order].astype(int) - crops).mean() < 1
    assert sample.names == [f"{number:03d}.png" for number in range(24)]
    assert sample.scenes.shape == (24, 32, 32, 3) and np.bincount(sample.owners).max() == 4
    assert evenly_spread(10, 3).tolist() == [1, 5, 8] and evenly_spread(2, 3).tolist() == [0, 1]


def test_photos_are_cut_as_boxes_say():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    photo = Photo("a.png", pixels, (20, 30), np.zeros((0, 4), np.float32))
    np.testing.assert_array_equal(photo.cut(photo.square(), 20, "bilinear"), pixels[:, 5:25])
    box = np.array([0.5, 0.2, 1.0, 0.6], np.float32)
    np.testing.assert_allclose(photo.cut(box, 1, "bilinear")[0, 0], pixels[10:, 6:18].mean((0, 1)), atol=12)


def test_recognition_is_the_share_of_photos_that_find_their_own_second_view():
    """In the plane: the first finds its own, the second is nearer to the third's, and the third finds the second's."""
    first, second = np.radians([0, 90, 200]), np.radians([10, 180, 130])
    pairs = np.stack([np.stack([np.cos(a), np.sin(a)], 1) for a in (first, second)], 1)
    expected = [np.argmin(np.abs((second - angle + np.pi) % (2 * np.pi) - np.pi)) == n for n, angle in enumerate(first)]
    assert recognition(pairs) == np.mean(expected) == 1 / 3
    assert recognition(np.ones((5, 2, 3))) == 0  # a collapse recognises nothing


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (0.1, 0.6, "has learned to recognise"),
        (0.1, 0.15, "within chance"),
        (0.6, 0.1, "recognises fewer"),
        (1, 1, "has learned"),
    ],
)
def test_recognition_in_words(before, after, verdict):
    """100 photos: the first ones have a direction of their own in both views, the others swap theirs in the second."""

    def pairs(share):
        start = round(100 * share)
        order = np.concatenate([np.arange(start), np.roll(np.arange(start, 100), 1)]).astype(int)
        return np.stack([np.eye(100), np.eye(100)[order]], 1)

    text, warned = draw_recognition(pairs(before), pairs(after))
    assert verdict in text and len(warned) == ("learned" not in verdict)
    assert f"<b>{after:.0%}</b>" in text and f"before training in {before:.0%}" in text


def test_similarity_is_the_cosine_with_the_feature_at_the_point():
    own, other = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    own[..., 0], own[1, 0] = 5, (3, 4)
    other[..., 1] = 2
    found = similarity(own, other, (0.9, 0.1))  # the lower left place
    np.testing.assert_allclose(found[0], [[0.6, 0.6], [1, 0.6]])
    np.testing.assert_allclose(found[1], 0.8)


def test_heat_is_red_at_1_and_blue_at_the_least():
    heat = np.full((4, 4), 0.2)
    heat[0, 0] = 1
    drawn = draw_heat(heat, np.full((64, 64, 3), 128, np.uint8), 0.2).astype(int)
    red, blue = drawn[2, 2], drawn[60, 60]
    assert red[0] > red[2] + 40 and blue[2] > blue[0]


def test_the_point_is_the_centre_of_the_largest_box_within_the_square():
    """Of a photo twice as wide as high, whose square is from 0.25 to 0.75 of its width; the largest box is outside."""
    boxes = np.array([[0, 0, 0.2, 0.6], [0.2, 0.3, 0.6, 0.6], [0, 0, 1, 0.4]], np.float32)
    photo = Photo("a", np.zeros((10, 20, 3), np.uint8), (10, 20), boxes)
    assert point_of(photo) == pytest.approx((0.4, 0.4))
    assert point_of(photo._replace(boxes=boxes[2:])) == (0.5, 0.5)


def test_two_kinds_of_photos_lie_apart_on_the_map_and_equal_features_in_one_place():
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1], 30)
    features = np.eye(8)[kinds] * 5 + rng.normal(0, 0.1, (60, 8))
    places, method = flatten(features)
    assert method.startswith("t-SNE") and places.min() == 0 and places.max() == 1
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert np.array_equal(kinds[distances.argmin(1)], kinds)
    places, method = flatten(np.ones((60, 8), np.float32))
    assert method == "principal components" and np.ptp(places, 0).max() < 0.01
    drawn = draw_map(np.array([[0, 0], [1, 1]]), np.zeros((2, 8, 8, 3), np.uint8), [1])
    assert (drawn[20, 20] == 0).all() and drawn[-2, -2].tolist() == [242, 0, 0] and (drawn[0, -1] == 255).all()
