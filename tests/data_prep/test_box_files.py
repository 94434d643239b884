"""Files of boxes as people have them, and what docs/data.md says of each."""

import json
from pathlib import Path

import pytest

from data_prep import streaming
from tests.data_prep.dialects import table_in
from tests.data_prep.test_imported import read, result, write
from univip_jax.common.errors import UserError

A, B = [5, 6, 70, 80], [1, 2, 30, 40]
UNUSABLE = "1 element without a usable box or image_id left out (first: "
FILES = {  # what docs/data.md says of it; examples: contents or bytes, boxes of 9.jpg, beginning of the line that tells
    "COCO results, alone or as `annotations` of an object": (
        "by descending `score`",
        [
            ([result(9, 0.2, *B), result(9, 0.9, *A)], [A, B], None),
            ({"info": {}, "annotations": [result(9, 0.2, *B), result(9, 0.9, *A)], "images": 5}, [A, B], None),
        ],
    ),
    'boxes by name: `{"NAME": [[x, y, width, height], ...], ...}`': (
        "in the order of the file",
        [
            ({"9": [B, A], "4.jpg": []}, [B, A], None),
            ({"elsewhere\\9.JPG": B}, [B], None),
            ({"9.jpg": [B, None, "x", 5, [1, 2], A]}, [B, A], "4 elements without a usable box or image_id left out"),
            ({"9.jpg": [B], "4.jpg": None}, [B], UNUSABLE + "'4.jpg')"),
            ({"9.jpg": [B], "4.jpg": [1, 2, 3]}, [B], "3 elements without a usable box"),
        ],
    ),
    'ORL\'s: `{"bbox": [[[x, y, width, height], ...], ...]}`, without names': (
        "one list for each of `images` in the json",
        [
            ({"bbox": [[B, A], []]}, [B, A], None),
            ({"bbox": [B, [A]]}, [B], None),
            ({"bbox": [[B, [1, 2], A], [A]]}, [B, A], UNUSABLE + "'one of list 0')"),
            ({"bbox": [[B], None]}, [B], UNUSABLE + "'one of list 1')"),
            ({"bbox": [[B, [1, 2, -30, 40]], [A]]}, [B], UNUSABLE + "'one of list 0')"),
        ],
    ),
    "`image_id` a number": (
        "an id in the json of `--annotations`",
        [([result(9, 1, *A)], [A], None), ([result(9.0, 1, *A)], [A], None)],
    ),
    "`image_id` a text": (
        "the photo's name, with or without suffix; an id where that fits more of them",
        [
            ([result("9.jpg", 1, *A), result("other.jpg", 1, *B)], [A], None),
            ([result("9", 1, *A)], [A], None),
        ],
    ),
    "UTF-16, a byte order mark": (
        "read",
        [
            (json.dumps([result(9, 1, *A)]).encode(encoding), [A], None)
            for encoding in ("utf-8-sig", "utf-16", "utf-16-be", "utf-32")
        ],
    ),
    "elements without a usable box or `image_id`": (
        "left out",
        [
            ([result(9, 1, *A), odd], [A], UNUSABLE)
            for odd in (
                None, 5, "x", [], {}, {"image_id": 9}, result(None, 1, *B), result([9], 1, *B), result(9, 1, 1, 2, 3),
                result(9, 1, 1, 2, None, 40), result(9, 1, 1, 2, float("nan"), 40), result(9, 1, 1, 2, -30, 40),
                {"image_id": 9, "bbox": "1 2 30 40"}, {"image_id": 9, "bbox": {"x": 1}},
            )
        ]
        + [([result(9, 1, *map(str, A))], [A], None)],
    ),
    "`score` missing; of no use": (
        "0; the last",
        [
            ([{"image_id": 9, "bbox": B}, result(9, -1, *B), result(9, 0.1, *A)], [A, B, B], None),
            *[
                ([result(9, score, *B), result(9, -1, *A)], [A, B], "1 element without a usable score taken last")
                for score in (None, "high", float("nan"), [])
            ],
            ([result(9, "0.1", *B), result(9, "0.9", *A)], [A, B], None),
        ],
    ),
}  # fmt: skip
EXAMPLES = [
    pytest.param(*example, id=f"{name[:20]} {index}")
    for name, (_, examples) in FILES.items()
    for index, example in enumerate(examples)
]


@pytest.mark.parametrize(("contents", "boxes", "told"), EXAMPLES)
def test_file_of_boxes(tmp_path, contents, boxes, told):
    path = tmp_path / "r.json"
    path.write_bytes(contents if isinstance(contents, bytes) else json.dumps(contents).encode())
    found = read(path)
    assert found.candidates["folder/9.jpg"].boxes_xywh_px.tolist() == boxes
    lines = [line.removeprefix(f"--proposals_file={path}: ") for line in found.findings[0].lines()]
    assert any(line.startswith(told) for line in lines) if told else lines == [], lines


def test_documented_files_are_the_tested_ones():
    page = Path(__file__).parents[2] / "docs/data.md"
    assert table_in(page, "| file of boxes | what happens |") == {name: happens for name, (happens, _) in FILES.items()}


def test_damage_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "_CHUNK", 64)
    monkeypatch.setattr(streaming, "_LONGEST", 1000)
    path = write(tmp_path / "r.json", [result(9, 1, *A)] * 500)
    assert len(read(path).candidates["folder/9.jpg"].boxes_xywh_px) == 500
    path.write_text(path.read_text().replace("[5, 6, 70, 80]", "[5, 6 70, 80]", 1))
    with pytest.raises(UserError, match=r"cannot be read .ValueError: one value is longer than 1000 characters"):
        read(path)
