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
    paths, labels, classes, _ = read_voc(voc, "test")
    assert classes == ("cat", "dog")
    assert [path.removeprefix(str(voc)) for path in paths[:2]] == ["/JPEGImages/000013.jpg", "/JPEGImages/000014.jpg"]
    np.testing.assert_array_equal(
        labels, [[1, -1], [-1, 1], [1, 1], [1, 0], [-1, -1], [1, -1], [-1, 1], [0, 1], [1, -1], [-1, 1]]
    )


def test_read_voc_takes_photos_of_other_suffixes(voc, copy):
    for number, suffix in ((13, ".png"), (14, ".JPEG"), (15, ".Jpg")):
        path = copy / "JPEGImages" / f"{number:06}.jpg"
        path.rename(path.with_suffix(suffix))
    found, expected = read_voc(copy, "test"), read_voc(voc, "test")
    assert [Path(path).name for path in found.paths[:3]] == ["000013.png", "000014.JPEG", "000015.Jpg"]
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


def test_lists_of_a_class_and_with_a_byte_order_mark(copy):
    expected = read_voc(copy, "test")
    lists = copy / "ImageSets" / "Main"
    (lists / "test.txt").write_text((lists / "test.txt").read_text(), "utf-8-sig")
    assert read_voc(copy, "test").paths == expected.paths
    (lists / "cat_test.txt").write_text("000013  1\n000014 -1\n000015  0\n")
    assert [Path(path).stem for path in read_voc(copy, "cat_test").paths] == ["000013", "000015"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("000013\n000014\n000013\n", r"odd\.txt lists 1 ids more than once: 000013; list each once"),
        ("000013 000014\n", r"cannot be read \(a line is an id, or an id with -1, 0 or 1; found '000013 000014'\)"),
    ],
)
def test_odd_lists_are_named(copy, text, words):
    (copy / "ImageSets" / "Main" / "odd.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        read_voc(copy, "odd")


def test_annotation_of_an_unknown_encoding_is_named(copy):
    (copy / "Annotations" / "000014.xml").write_text("<?xml version='1.0' encoding='foo'?><annotation/>")
    with pytest.raises(UserError, match=r"000014 \(no XML that can be read: unknown encoding: foo\)"):
        read_voc(copy, "test")
