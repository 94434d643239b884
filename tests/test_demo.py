"""The demo: its photos, and the picture of the README."""

import numpy as np
import pytest
from PIL import Image

from demo import picture
from demo.scenes import HELD_OUT, SCENE_SIDE, make_scene, write_photos


def test_write_photos_equal_seeds_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_photos(tmp_path / name, num_scenes=3, seed=1)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.png"))
    assert len(files) == 3 + 2 * 1297 + 4 * HELD_OUT
    assert sum(p.parts[:2] == ("labelled", "test") for p in files) == 4 * HELD_OUT
    for path in files[:: len(files) // 20]:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    with Image.open(tmp_path / "a" / "scenes" / "00000.png") as scene:
        assert scene.size == (SCENE_SIDE, SCENE_SIDE)


@pytest.mark.parametrize("seed", range(8))
def test_make_scene_paints_two_to_four_digits(seed):
    blank = make_scene(np.zeros((1, 8, 8)), np.zeros(1), np.random.default_rng(seed))
    full = make_scene(np.full((1, 8, 8), 16.0), np.zeros(1), np.random.default_rng(seed))
    assert len(np.unique(blank.reshape(-1, 3), axis=0)) == 1
    colors, counts = np.unique(full.reshape(-1, 3), axis=0, return_counts=True)
    assert 2 <= (counts > 100).sum() - 1 <= 4, colors


def test_picture_shows_boxes_inside_both_scenes_and_the_shares_of_a_plan(run, tmp_path):
    preview = picture.draw_views(seed=2138)
    plan = picture.plan_of(run, preview.views)
    for scene in preview.geometry.scenes:
        assert (preview.geometry.instances[:, :2] >= scene[:2] - 1e-6).all()
        assert (preview.geometry.instances[:, 2:] <= scene[2:] + 1e-6).all()
    assert plan.shape == (4, 4)
    np.testing.assert_allclose(plan.sum(), 1.0, rtol=1e-5)
    picture.draw(preview, plan, tmp_path / "picture.jpg", dpi=30)
    with Image.open(tmp_path / "picture.jpg") as drawn:
        assert drawn.size == (300, 100)
        assert np.asarray(drawn).std() > 30
