"""The demo: its photos, and the picture of the README."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from demo import __main__ as demo
from demo import picture
from demo.scenes import HELD_OUT, SCENE_SIDE, make_scene, write_photos
from univip_jax.common.errors import TransientError
from univip_jax.common.files import held


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


def test_demo_leaves_one_that_still_runs_alone(tmp_path, monkeypatch):
    (tmp_path / demo._MARK).touch()
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(demo.flags, "FLAGS", SimpleNamespace(workdir=str(tmp_path), seed=0))
    with held(tmp_path), pytest.raises(TransientError, match="is in use"):
        demo._work()
    assert {path.name for path in tmp_path.iterdir()} == {demo._MARK, "data"}
    monkeypatch.setattr(demo, "_run_all", lambda root, first: seen.append([path.name for path in root.iterdir()]))
    seen = []
    demo._work()
    assert seen == [["lock"]]  # the old demo is gone
