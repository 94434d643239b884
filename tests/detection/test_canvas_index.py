"""Batches of one canvas: a pure function of the step, over which all photos come equally often."""

import numpy as np
import pytest

from univip_jax.data.detection.index import CanvasIndex

# Photos on each of four canvases; the positions in the set are odd, as those of photos with objects may be.
COUNTS = (50, 23, 17, 9)


def make_index(counts=COUNTS, seed=0, batch_size=4):
    """Photo 2n + 1 of the set lies on the canvas of its rank."""
    canvas = np.random.default_rng(0).permutation(np.repeat(np.arange(4), counts))
    return CanvasIndex(canvas, 2 * np.arange(len(canvas)) + 1, seed, batch_size), canvas


def test_a_step_gives_the_same_photos_whatever_was_asked_before():
    """Also of another object; another seed gives others."""
    index, _ = make_index()
    forwards = [index.rows(step) for step in range(200)]
    for step in (199, 3, 77):
        again = make_index()[0].rows(step)
        assert again.canvas == forwards[step].canvas
        np.testing.assert_array_equal(again.photos, forwards[step].photos)
        np.testing.assert_array_equal(again.repeats, forwards[step].repeats)
    other = [make_index(seed=1)[0].rows(step).photos.tolist() for step in range(5)]
    assert other != [rows.photos.tolist() for rows in forwards[:5]]


def test_a_batch_is_of_one_canvas_and_a_photo_comes_once_before_any_comes_twice():
    """`repeats` counts how often a photo was used before."""
    index, canvas = make_index()
    seen, order = np.zeros(len(canvas), int), {number: [] for number in range(4)}
    for step in range(40 * index.steps_per_epoch):
        rows = index.rows(step)
        places = (rows.photos - 1) // 2
        assert (canvas[places] == rows.canvas).all()
        for place, repeat in zip(places, rows.repeats, strict=True):
            assert seen[place] == repeat
            seen[place] += 1
        order[rows.canvas] += places.tolist()
    for number, count in enumerate(COUNTS):
        assert np.ptp(seen[canvas == number]) <= 1
        rounds = [tuple(order[number][start : start + count]) for start in range(0, 5 * count, count)]
        assert len(set(rounds)) == 5 and all(len(set(one)) == count for one in rounds)


def test_canvases_come_as_often_as_their_photos_ask_for():
    """In an epoch, within half a batch; in another order in each."""
    index, _ = make_index()
    assert index.steps_per_epoch == sum(round(count / 4) for count in COUNTS)
    epochs = [[index.rows(e * index.steps_per_epoch + s).canvas for s in range(index.steps_per_epoch)] for e in (0, 1)]
    for epoch in epochs:
        assert np.bincount(epoch).tolist() == [round(count / 4) for count in COUNTS]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ("counts", "canvases"), [((3, 9, 10, 9), (1, 2, 3)), ((3, 3, 10, 9), (2, 3)), ((9, 9, 2, 0), (0, 1, 2))]
)
def test_a_canvas_with_less_than_a_batch_gives_it_to_the_next_larger(counts, canvases):
    """Of the same direction; the largest keeps what it has, and repeats it within a batch."""
    index, canvas = make_index(counts)
    assert index.canvases == canvases
    seen = np.unique(np.concatenate([index.rows(step).photos for step in range(8 * index.steps_per_epoch)]))
    np.testing.assert_array_equal(seen, 2 * np.arange(len(canvas)) + 1)
