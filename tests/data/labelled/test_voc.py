"""VOC's layout: labels by hand, and what can be wrong with a copy of it."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import open_labelled
from univip_jax.data.labelled.voc import read_voc

BOMB = (
    '<!DOCTYPE a [<!ENTITY a0 "ha">'
    + "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(12))
    + "]><annotation><object><name>&a12;</name></object></annotation>"
)


@pytest.fixture
def copy(voc, tmp_path):
    return shutil.copytree(voc, tmp_path / "VOC2007")


def test_read_voc_labels_by_hand(voc):
    """A class is difficult where each object of it is; a part of an object, as a head, is none."""
    paths, labels, classes = read_voc(voc, "test")
    assert classes == ("cat", "dog")
    assert [path.removeprefix(str(voc)) for path in paths[:2]] == ["/JPEGImages/000013.jpg", "/JPEGImages/000014.jpg"]
    np.testing.assert_array_equal(
        labels, [[1, -1], [-1, 1], [1, 1], [1, 0], [-1, -1], [1, -1], [-1, 1], [0, 1], [1, -1], [-1, 1]]
    )


def test_read_voc_takes_photos_of_other_suffixes(voc, copy):
    for number, suffix in ((13, ".png"), (14, ".JPEG")):
        path = copy / "JPEGImages" / f"{number:06}.jpg"
        path.rename(path.with_suffix(suffix))
    found, expected = read_voc(copy, "test"), read_voc(voc, "test")
    assert [Path(path).name for path in found.paths[:3]] == ["000013.png", "000014.JPEG", "000015.jpg"]
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_fingerprint_of_voc_includes_labels(copy):
    before = open_labelled(f"{copy}:test").fingerprint
    annotation = copy / "Annotations" / "000016.xml"
    annotation.write_text(annotation.read_text().replace("<difficult>1", "<difficult>0"))
    assert open_labelled(f"{copy}:test").fingerprint != before


def test_open_labelled_names_a_split_without_a_list(voc):
    with pytest.raises(UserError, match=r"Main/val\.txt, the list of a VOC split.*found: test, trainval$"):
        open_labelled(f"{voc}:val")


def test_open_labelled_names_all_bad_photos(copy):
    (copy / "JPEGImages" / "000013.jpg").unlink()
    (copy / "Annotations" / "000014.xml").unlink()
    (copy / "Annotations" / "000015.xml").write_text("<annotation><object>")
    (copy / "Annotations" / "000017.xml").write_text("<annotation><object></object></annotation>")
    with pytest.raises(
        UserError, match=r"4 of the 10 photos of .*:test.* 000013 \(.*is missing\), 000014 .*no XML.* and 1 more"
    ):
        open_labelled(f"{copy}:test")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_read_annotation_does_not_expand_entities(copy, encoding):
    """They would take 10^12 times two letters."""
    (copy / "Annotations" / "000014.xml").write_text(BOMB, encoding)
    begin = time.perf_counter()
    with pytest.raises(UserError, match=r"1 of the 10 photos .* 000014 \(it declares a document type\)"):
        open_labelled(f"{copy}:test")
    assert time.perf_counter() - begin < 20
