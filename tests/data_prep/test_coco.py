"""COCO's json as people have it: what can be used is used, the rest is told with its number and first id."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from data_prep import annotations, coco, coco_objects
from data_prep.annotated import find_annotations
from tests.data_prep import dialects
from tests.data_prep.dialects import BOX, IDS, OF_ANNOTATIONS, POLYGON
from tests.data_prep.dialects_of_images import OF_IMAGES
from univip_jax.common.errors import UserError
from univip_jax.data.photos.decode import StoredPhoto

DIALECTS = OF_ANNOTATIONS | OF_IMAGES
EXAMPLES = [
    pytest.param(example, id=f"{dialect[:30]} {index}")
    for dialect, (_, examples) in DIALECTS.items()
    for index, example in enumerate(examples)
]


def read(path, contents, image_ids=IDS, **more):
    path.write_text(contents if isinstance(contents, str) else json.dumps(contents))
    read = coco.read(path)
    return find_annotations(read, image_ids, **more), read.findings


def stored(orientation=1):
    """A photo of 50 x 100 px as encoded."""
    shape = [100, 50, 3] if orientation >= 5 else [50, 100, 3]
    return StoredPhoto(b"", np.zeros(shape, np.uint8), 50, 100, orientation)


def described(found, orientation):
    """One photo's objects in px of the photo as stored, each fact under its name in `dialects`."""
    if found is None:
        return None
    photo = stored(orientation)
    objects = annotations.in_photo(found, photo)
    height, width = photo.pixels.shape[:2]
    corners = np.round(objects.boxes * [height, width, height, width], 3)
    points = np.round(objects.polygons.points[:, ::-1] * [width, height], 3)
    ends = np.cumsum(objects.polygons.num_points)
    assert len(objects.labels) == len(objects.is_crowd) == len(objects.boxes)
    assert not objects.polygons.objects.any()  # all of the first object
    return {
        "boxes": [[x0, y0, x1 - x0, y1 - y0] for y0, x0, y1, x1 in corners.tolist()],
        "labels": objects.labels.tolist(),
        "crowds": objects.is_crowd.tolist(),
        "polygons": [part.ravel().tolist() for part in np.split(points, ends)[:-1]],
        "size": (found.height, found.width),
        "areas": objects.in_json.areas.tolist(),
        "masks": list(objects.in_json.rle),
    }


@pytest.mark.parametrize("example", EXAMPLES)
def test_dialect(tmp_path, example):
    change, differs, told, orientation = (*example, 1)[:4]
    contents = dialects.contents()
    change(contents)
    by_id, findings = read(tmp_path / "c.json", contents)
    usual = {"boxes": [BOX], "labels": [3], "crowds": [False], "polygons": [POLYGON], "size": (50, 100)}
    usual |= {"areas": [150], "masks": [b""]}
    for image_id in IDS:
        found, wanted = described(by_id.get(image_id), orientation), differs.get(image_id, {})
        if isinstance(wanted, dict):
            assert found == usual | wanted
        else:
            assert (found and found["boxes"]) == wanted
    lines = [line.removeprefix(f"--annotations={tmp_path / 'c.json'}: ") for line in findings.lines()]
    assert any(line.startswith(told) for line in lines) if told else lines == [], lines


def test_documented_dialects_are_the_tested_ones():
    page = Path(__file__).parents[2] / "docs/data.md"
    assert dialects.table_in(page, "| json | what happens |") == {name: row.happens for name, row in DIALECTS.items()}


MASK = {"size": [50, 100], "counts": dialects.LETTERS}
FULL = MASK | {"counts": dialects.LETTERS.decode()}
IMAGES = [{"id": 1, "file_name": "x.jpg", "height": 5, "width": 5}]


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (None, "cannot be read as COCO instances json .FileNotFoundError"),
        ("{", "cannot be read as COCO instances json .JSONDecodeError"),
        ("[]", "cannot be read as COCO instances json .TypeError"),
        ('"text"', "cannot be read as COCO instances json"),
        ("7", "cannot be read as COCO instances json"),
        ("null", "cannot be read as COCO instances json"),
        ("{}", "cannot be read as COCO instances json .KeyError: 'images'"),
        ({"images": {"0.jpg": {}}}, "images and annotations must be lists"),
        ({"images": [], "annotations": {"0.jpg": []}}, "images and annotations must be lists"),
        ("[" * 100_000, "cannot be read as COCO instances json .RecursionError"),
        ({"images": []}, "names none of the 3 photos .such as x/0.jpg.: give the json that belongs"),
        ({"images": IMAGES}, "names none of the 3 photos"),
        ({"images": [None, 5, "x", []]}, "names none of the 3 photos"),
        (
            {"images": [{"id": folder, "file_name": f"{folder}/0.jpg"} for folder in "ab"]},
            "several images or photos fit",
        ),
    ],
)
def test_what_is_no_json_of_these_photos_is_one_line_that_names_it(tmp_path, contents, words):
    if contents is None:
        with pytest.raises(UserError, match=words) as error:
            coco.read(tmp_path / "c.json")
    else:
        with pytest.raises(UserError, match=words) as error:
            read(tmp_path / "c.json", contents)
    assert f"--annotations={tmp_path / 'c.json'}" in str(error.value) and "\n" not in str(error.value)


def test_json_without_annotations_gives_photos_no_objects(tmp_path):
    for more in ({}, {"annotations": None}, {"annotations": []}, {"categories": 5}):
        by_id, findings = read(tmp_path / "c.json", {"images": dialects.contents()["images"]} | more)
        assert [len(by_id[image_id].labels) for image_id in IDS] == [0, 0, 0] and findings.lines() == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_in_other_unicode_encodings(tmp_path, encoding):
    (tmp_path / "c.json").write_bytes(json.dumps(dialects.contents()).encode(encoding))
    assert sorted(find_annotations(coco.read(tmp_path / "c.json"), IDS)) == IDS


def test_findings_name_the_first_few_and_fit_in_a_line(tmp_path):
    contents = dialects.contents()
    contents["images"] += [{"id": 100 + i, "file_name": "n\n" * 200 + f"{i}.jpg"} for i in range(20)]
    _, findings = read(tmp_path / "c.json", contents)
    report = findings.report()["images_without_photo"]
    assert report["count"] == 20 and len(report["first"]) == 5
    assert all("\n" not in line and len(line) < 300 for line in findings.lines())
    assert "20 images without a photo here (first: 'n\\nn" in findings.lines()[-1]


def test_careful_reading_gives_the_arrays_of_plain_reading(tmp_path, monkeypatch):
    contents = dialects.contents()
    contents["annotations"] += [
        {"image_id": 7, "category_id": 4, "bbox": [0, 0, 90, 40], "area": 3000, "iscrowd": 1, "segmentation": FULL},
        {"image_id": 8, "category_id": 4, "bbox": [10, 20, 30, 10], "area": 300, "segmentation": FULL},
        {
            "image_id": 7,
            "category_id": 3,
            "area": 8,
            "bbox": [1.5, 2, 3, 4.1],
            "segmentation": [[1.5, 2, 4.5, 2, 4.5, 6.1], POLYGON],
        },
    ]
    plain, _ = read(tmp_path / "c.json", contents)
    monkeypatch.setattr(coco_objects, "_plain", lambda *given: None)
    careful, findings = read(tmp_path / "c.json", contents)
    assert findings.lines() == []
    for image_id in IDS:
        assert annotations.fingerprint(careful[image_id]) == annotations.fingerprint(plain[image_id])


def test_fingerprint_of_imported_boxes_is_that_of_earlier_versions_and_of_annotations_another(tmp_path):
    by_id, _ = read(tmp_path / "c.json", dialects.contents())
    digest = hashlib.sha256(b"50 100")
    for values in (
        np.array([BOX], np.float64), np.array([3], np.int64), np.array([False]),
        np.array(POLYGON, np.float32).reshape(-1, 2), np.array([3], np.int64), np.array([0], np.int64),
    ):  # fmt: skip
        digest.update(b"|" + values.tobytes())
    found = by_id["x/0.jpg"]
    imported = found._replace(json_id="", areas=None, masks=())
    assert annotations.fingerprint(imported) == digest.digest()
    others = (found, found._replace(json_id="8"), found._replace(areas=found.areas + 1), found._replace(masks=(MASK,)))
    assert len({annotations.fingerprint(one) for one in (imported, *others)}) == 5


@pytest.mark.parametrize(
    ("change", "image_id"),
    [
        (dialects.image(), "7"),
        (dialects.ids("a{}".format, "a{}".format), '"a7"'),
        (dialects.ids("{:03}".format, int), '"007"'),
        (dialects.ids(float, int), "7.0"),
        (dialects.image(id=...), '"0.jpg"'),
        (dialects.image(id=float("nan")), '"0.jpg"'),
    ],
)
def test_ids_are_kept_as_the_json_writes_them(tmp_path, change, image_id):
    contents = dialects.contents()
    change(contents)
    by_id, _ = read(tmp_path / "c.json", contents)
    assert annotations.in_photo(by_id["x/0.jpg"], stored()).in_json[:3] == (image_id, 50, 100)


def test_one_careless_box_turns_no_json(tmp_path):
    contents = {"images": [], "annotations": []}
    for i in range(200):
        contents["images"].append({"id": i, "file_name": f"{i}.jpg", "height": 50, "width": 100})
        contents["annotations"].append({"image_id": i, "category_id": 1, "bbox": [5, 5, 10, 40 + 40 * (i < 2)]})
        contents["annotations"][-1]["area"] = 400
    contents["categories"] = [{"id": 1, "name": "cat"}]
    ids = [f"{i}.jpg" for i in range(200)]
    by_id, findings = read(tmp_path / "c.json", contents, ids)
    assert findings.lines() == [] and not by_id["9.jpg"].upright
    contents["annotations"][2]["bbox"][3] = 80
    by_id, findings = read(tmp_path / "c.json", contents, ids)
    assert "3 images whose boxes leave the stated size" in findings.lines()[0] and by_id["9.jpg"].upright


def test_photos_of_one_source_keep_its_prefix(tmp_path):
    by_id, _ = read(tmp_path / "c.json", dialects.contents(), ["t/0.jpg", "t/a/0.jpg"], prefix="t/")
    assert list(by_id) == ["t/0.jpg"]
