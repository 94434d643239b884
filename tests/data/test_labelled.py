"""Labelled sets: fingerprints, and parts held out of them."""

import shutil

import numpy as np
import pytest

from univip_jax.data.labelled import hold_out, open_labelled
from univip_jax.errors import UserError


def examples(labelled):
    return [(path.decode(), int(label)) for path, label in labelled.examples.as_numpy_iterator()]


def test_parts_are_the_set_once(labelled):
    whole = open_labelled(str(labelled))
    rest, held_out = hold_out(whole, 5, seed=3)
    assert (rest.num_images, held_out.num_images) == (19, 5)
    assert len(examples(held_out)) == 5
    assert sorted(examples(rest) + examples(held_out)) == sorted(examples(whole))


def test_seed_decides_the_part(labelled):
    whole = open_labelled(str(labelled))
    first, again, other = (examples(hold_out(whole, 5, seed=seed)[1]) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("number", [0, 24, 25])
def test_no_part_is_empty(labelled, number):
    with pytest.raises(UserError, match=f"{number} photos cannot be held out of the 24"):
        hold_out(open_labelled(str(labelled)), number, seed=0)


def test_fingerprint_tells_content_not_place(labelled, tmp_path):
    copy = shutil.copytree(labelled, tmp_path / "copy")
    before = open_labelled(str(labelled)).fingerprint
    assert open_labelled(str(copy)).fingerprint == before
    (copy / "dark" / "0.png").write_bytes(b"another")
    assert open_labelled(str(copy)).fingerprint != before
    parts = hold_out(open_labelled(str(labelled)), 5, seed=0)
    assert len({before, *(part.fingerprint for part in parts)}) == 3
    assert np.unique([hold_out(open_labelled(str(labelled)), 5, seed)[1].fingerprint for seed in range(4)]).size == 4
