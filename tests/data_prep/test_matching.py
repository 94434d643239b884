"""Names in a json to photos: the longest common end decides, nothing is guessed."""

import unicodedata

import pytest

from data_prep.matching import match

CASES = {
    "an equal path wins": (["a.jpg", "x/a.jpg"], ["x/a.jpg", "a.jpg"], {"x/a.jpg": "x/a.jpg", "a.jpg": "a.jpg"}, []),
    "base names that one photo and one name have": (["deep/er/b.jpg"], ["z/b.jpg"], {"z/b.jpg": "deep/er/b.jpg"}, []),
    "the longest common end": (
        ["i/A/1.jpg", "i/B/1.jpg"], ["B/1.jpg", "A/1.jpg"], {"A/1.jpg": "i/A/1.jpg", "B/1.jpg": "i/B/1.jpg"}, [],
    ),
    "the longest end in deeper folders": (
        ["A/l/1.jpg", "B/l/1.jpg"], ["d/B/l/1.jpg", "d/A/l/1.jpg"],
        {"d/A/l/1.jpg": "A/l/1.jpg", "d/B/l/1.jpg": "B/l/1.jpg"}, [],
    ),
    "two photos, one name": (
        ["a.jpg", "b.jpg"], ["x/a.jpg", "y/a.jpg", "b.jpg"], {"b.jpg": "b.jpg"}, ["x/a.jpg", "y/a.jpg"],
    ),
    "two names, one photo": (["x/a.jpg", "y/a.jpg"], ["a.jpg"], {}, ["a.jpg"]),
    "a name of another photo is no choice": (["x/a.jpg"], ["x/a.jpg", "y/a.jpg"], {"x/a.jpg": "x/a.jpg"}, []),
    "an end that another photo has more of": (["i/x/a.jpg"], ["x/a.jpg", "y/a.jpg"], {"x/a.jpg": "i/x/a.jpg"}, []),
    "the prefix of others tells": (
        ["i/a.jpg", "i/s/a.jpg"], ["a.jpg", "s/a.jpg"], {"a.jpg": "i/a.jpg", "s/a.jpg": "i/s/a.jpg"}, [],
    ),
    "the prefix tells for photos, too": (
        ["a.jpg", "s/a.jpg"], ["t/a.jpg", "t/s/a.jpg"], {"t/a.jpg": "a.jpg", "t/s/a.jpg": "s/a.jpg"}, [],
    ),
    "prefixes of two sources tell nothing": (
        ["a.jpg", "b.jpg", "c.jpg"], ["t/a.jpg", "v/a.jpg", "t/b.jpg", "v/c.jpg"],
        {"t/b.jpg": "b.jpg", "v/c.jpg": "c.jpg"}, ["t/a.jpg", "v/a.jpg"],
    ),
    "backslashes, a drive": (["C:\\data\\x\\a.jpg"], ["x/a.jpg"], {"x/a.jpg": "C:\\data\\x\\a.jpg"}, []),
    "backslashes in a photo's name": (["images/a.jpg"], ["images\\a.jpg"], {"images\\a.jpg": "images/a.jpg"}, []),
    "an absolute path, ./ and //": (["/d/x/a.jpg", ".//x/./b.jpg"], ["x/a.jpg", "x/b.jpg"],
        {"x/a.jpg": "/d/x/a.jpg", "x/b.jpg": ".//x/./b.jpg"}, []),
    "a URL": (
        ["http://host/x/a%20b.jpg?s=1#f"], ["x/a b.jpg", "a b.jpg"], {"x/a b.jpg": "http://host/x/a%20b.jpg?s=1#f"}, [],
    ),
    "NFC and NFD": ([unicodedata.normalize("NFC", "Köln.jpg")], [unicodedata.normalize("NFD", "Köln.jpg")],
        {unicodedata.normalize("NFD", "Köln.jpg"): unicodedata.normalize("NFC", "Köln.jpg")}, []),
    "photos that differ in Unicode's form alone": (
        [unicodedata.normalize("NFC", "ö.jpg")],
        [unicodedata.normalize(kind, "ö.jpg") for kind in ("NFC", "NFD")],
        {}, [unicodedata.normalize(kind, "ö.jpg") for kind in ("NFC", "NFD")],
    ),
    "letter case": (
        ["A.JPG", "b.jpg", "B.JPG"], ["a.jpg", "b.jpg", "b.JPG"],
        {"a.jpg": "A.JPG", "b.jpg": "b.jpg", "b.JPG": "B.JPG"}, [],
    ),
    "names that differ in letter case alone": (["A.jpg", "a.JPG"], ["a.jpg"], {}, ["a.jpg"]),
    "no suffix": (["000", "x/1.v2"], ["000.jpg", "x/1.v2.png"], {"000.jpg": "000", "x/1.v2.png": "x/1.v2"}, []),
    "no suffix, two photos": (["000"], ["000.jpg", "000.png"], {}, ["000.jpg", "000.png"]),
    "another suffix is another photo": (["a.png"], ["a.jpg"], {}, []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_match(case):
    names, ids, pairs, ambiguous = CASES[case]
    found = match(names, ids)
    assert found.names == pairs
    assert sorted(found.ambiguous) == sorted(ambiguous)
    again = match(names[::-1], ids[::-1])  # no order decides
    assert again.names == pairs and sorted(again.ambiguous) == sorted(ambiguous)
