"""Selective search: a pure function of the photo, in the photo's pixels."""

import itertools

import cv2
import numpy as np
import pytest

from data_prep.selective_search import photo_generator, selective_search
from tests.data_prep.painted import paint


def search(seed, max_side=400, **size):
    return selective_search(np.asarray(paint(seed, **size)), max_side, photo_generator(b"photo %d" % seed))


def test_selective_search_does_not_depend_on_earlier_searches():
    first = search(0)
    for seed in range(1, 5):
        search(seed)
    np.testing.assert_array_equal(search(0), first)
    assert len(first) > 10


def test_opencvs_order_depends_on_earlier_searches():
    """The reason for sorting and shuffling; when this fails, both can go."""

    def raw():
        cv_search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        cv_search.setBaseImage(np.ascontiguousarray(np.asarray(paint(0))[..., ::-1]))
        cv_search.switchToSelectiveSearchFast(100, 100, 0.4)
        return cv_search.process().tolist()

    first, second = raw(), raw()
    assert first != second and sorted(first) == sorted(second)


def test_boxes_are_those_of_sixteen_separate_searches_of_opencv():
    """Two colour spaces, two scales, four similarities, each with objects of its own: sharing them changes no box."""
    opencv, expected = cv2.ximgproc.segmentation, set()
    prefix = "createSelectiveSearchSegmentationStrategy"
    bgr = cv2.cvtColor(np.asarray(paint(6)), cv2.COLOR_RGB2BGR)
    for code, k in itertools.product((cv2.COLOR_BGR2HSV, cv2.COLOR_BGR2Lab), (100, 400)):
        for names in ("Color Fill Texture Size", "Fill Texture Size", "Fill", "Size"):
            cv_search = opencv.createSelectiveSearchSegmentation()
            cv_search.setBaseImage(bgr)
            cv_search.addImage(cv2.cvtColor(bgr, code))
            cv_search.addGraphSegmentation(opencv.createGraphSegmentation(0.4, k, 100))
            multiple = opencv.createSelectiveSearchSegmentationStrategyMultiple()
            for name in names.split():
                multiple.addStrategy(getattr(opencv, prefix + name)(), 1 / len(names.split()))
            cv_search.addStrategy(multiple)
            expected |= {(y, x, y + h, x + w) for x, y, w, h in cv_search.process().tolist()}
    found = search(6)
    assert len(found) == len(expected) and set(map(tuple, found.tolist())) == expected


def test_boxes_of_a_shrunk_copy_are_scaled_back_to_the_photo():
    pixels = np.full([200, 400, 3], 20, np.uint8)
    pixels[50:150, 100:300] = 230
    found = selective_search(pixels, 100, photo_generator(b""))
    distances = np.abs(found - [50, 100, 150, 300]).max(axis=-1)
    assert distances.min() <= 8  # one pixel of the copy is four of the photo
    assert (found >= 0).all() and (found <= [200, 400, 200, 400]).all()
    assert found[:, 2].max() == 200 and found[:, 3].max() == 400


def test_order_depends_on_the_photo():
    pixels = np.asarray(paint(0))
    one, two = (selective_search(pixels, 400, photo_generator(name)) for name in (b"1", b"2"))
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(np.unique(one, axis=0), np.unique(two, axis=0))


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 3), (5, 4), (2000, 10)])
def test_tiny_and_thin_photos_do_not_fail(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = selective_search(pixels, 400, photo_generator(b""))
    assert found.shape == (len(found), 4) and (found[:, :2] < found[:, 2:]).all()


def test_quality_mode_finds_more_boxes():
    pixels = np.asarray(paint(0, 60, 48))
    fast, quality = (selective_search(pixels, 0, photo_generator(b""), mode) for mode in ("fast", "quality"))
    assert len(quality) > len(fast) > 0
