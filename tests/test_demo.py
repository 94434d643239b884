"""The demo's photos: what is held out is held out, and equal seeds give equal bytes."""

import numpy as np
import pytest
from PIL import Image

from demo.scenes import HELD_OUT, SCENE_SIDE, make_scene, write_photos


def test_scenes_hold_several_digits_and_are_reproducible(tmp_path):
    for name in ("a", "b"):
        write_photos(tmp_path / name, num_scenes=3, seed=1)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.png"))
    assert len(files) == 3 + 1797
    assert sum(p.parts[:2] == ("labelled", "test") for p in files) == HELD_OUT
    for path in files[:: len(files) // 20]:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    with Image.open(tmp_path / "a" / "scenes" / "00000.png") as scene:
        assert scene.size == (SCENE_SIDE, SCENE_SIDE)


@pytest.mark.parametrize("seed", range(8))
def test_a_scene_of_blank_digits_is_blank_and_of_full_ones_holds_two_to_four(seed):
    blank = make_scene(np.zeros((1, 8, 8)), np.random.default_rng(seed))
    full = make_scene(np.full((1, 8, 8), 16.0), np.random.default_rng(seed))
    assert len(np.unique(blank.reshape(-1, 3), axis=0)) == 1
    colors, counts = np.unique(full.reshape(-1, 3), axis=0, return_counts=True)
    assert 2 <= (counts > 100).sum() - 1 <= 4, colors
