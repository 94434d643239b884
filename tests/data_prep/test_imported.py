"""Boxes of a detector and of ORL: which photo they belong to, in which order, and what has no match."""

import json

import numpy as np
import pytest

from data_prep import coco, imported, shards, streaming
from tests.data_prep.painted import paint
from univip_jax.common.errors import UserError
from univip_jax.data.photos import sources

IMAGES = [{"id": 9, "file_name": "9.jpg", "height": 96, "width": 120}, {"id": 4, "file_name": "4.jpg"}]
IDS = ["folder/4.jpg", "folder/9.jpg", "folder/none.jpg"]


def write(path, contents):
    path.write_text(json.dumps(contents))
    return path


def result(image_id, score, *bbox):
    mask = {"size": [96, 120], "counts": "`W1\\"}  # detectors of masks write one beside each box
    return {"image_id": image_id, "category_id": 1, "bbox": list(bbox), "score": score, "segmentation": mask}


def json_of(path, images):
    """The json of `--annotations` that stands beside a file of boxes; None without images."""
    return coco.read(write(path.with_suffix(".coco"), {"images": images})) if images else None


def read(path, images=IMAGES, ids=IDS, min_side=16):
    return imported.read_proposals([path], [json_of(path, images)], [ids], [""], min_side)


def test_coco_results_are_matched_by_file_name_and_sorted_by_score(tmp_path):
    results = [result(9, 0.2, 1, 2, 30, 40), result(9, 0.9, 5, 6, 70, 80), result(4, 0.1, 0, 0, 20, 20)]
    found = read(write(tmp_path / "r.json", [*results, result(9, 1.0, 0, 0, 15, 90), result(77, 0.5, 0, 0, 20, 20)]))
    np.testing.assert_array_equal(found.candidates["folder/9.jpg"].boxes_xywh_px, [[5, 6, 70, 80], [1, 2, 30, 40]])
    assert (found.candidates["folder/9.jpg"].height, found.candidates["folder/9.jpg"].width) == (96, 120)
    assert len(found.candidates["folder/4.jpg"].boxes_xywh_px) == 1
    assert found.report == {
        "photos_without_boxes": 1,
        "first_photos_without_boxes": ["folder/none.jpg"],
        "images_without_photo": 1,
        "first_images_without_photo": ["77"],
    }
    assert imported.describe(found.report) == [
        "1 photos have no boxes in the file (first: 'folder/none.jpg')",
        "1 images of the file are no photos here (first: '77')",
    ]


def test_coco_results_that_name_files_need_no_json(tmp_path):
    found = read(write(tmp_path / "r.json", [result("9.jpg", 1, 0, 0, 20, 20)]), images=[])
    assert list(found.candidates) == ["folder/9.jpg"]


def test_orl_json_follows_the_order_of_the_annotations(tmp_path):
    # One box alone is not nested: ORL squeezes its arrays.
    path = write(tmp_path / "orl.json", {"bbox": [[[0, 0, 20, 30], [3, 4, 50, 60]], [1, 2, 30, 40]]})
    found = read(path)
    np.testing.assert_array_equal(found.candidates["folder/9.jpg"].boxes_xywh_px, [[0, 0, 20, 30], [3, 4, 50, 60]])
    np.testing.assert_array_equal(found.candidates["folder/4.jpg"].boxes_xywh_px, [[1, 2, 30, 40]])
    assert found.report["photos_without_boxes"] == 1 and found.report["images_without_photo"] == 0


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_file_is_read_in_chunks_of_any_size(tmp_path, monkeypatch, chunk):
    results = [result(9, 0.5 + index / 100, index, 2.25, 30, 40) for index in range(20)]
    path = write(tmp_path / "r.json", results)
    whole = read(path).candidates["folder/9.jpg"].boxes_xywh_px
    monkeypatch.setattr(streaming, "_CHUNK", chunk)
    np.testing.assert_array_equal(read(path).candidates["folder/9.jpg"].boxes_xywh_px, whole)
    assert whole[:, 0].tolist() == list(range(19, -1, -1))


def test_two_files_follow_the_order_of_their_jsons(tmp_path):
    paths = [write(tmp_path / f"{i}.json", {"bbox": [[[i, 0, 20, 20]]]}) for i in range(2)]
    jsons = [json_of(path, IMAGES[i : i + 1]) for i, path in enumerate(paths)]
    found = imported.read_proposals(paths, jsons, [IDS, IDS], ["", ""], 16)
    assert [found.candidates[i].boxes_xywh_px[0, 0] for i in ("folder/9.jpg", "folder/4.jpg")] == [0, 1]


@pytest.mark.parametrize(
    ("contents", "images", "words"),
    [
        ([{"image_id": 9, "bbox": [1, 2, 3]}], IMAGES, "but for no image; 1 element without a usable box or image_id"),
        ([[1, 2]], IMAGES, "but for no image; 1 element without a usable box or image_id"),
        ({"boxes": []}, IMAGES, "none of the 3 photos .such as folder/4.jpg., but for 'boxes'"),
        ("text", IMAGES, "neither as a list nor"),
        ({"images": [{"id": 9}], "info": 5}, IMAGES, "but for 'images'; 2 elements without a usable box"),
        ({"bbox": [[[0, 0, 20, 20]]]}, IMAGES, "for 1 photos in the order.*--annotations has 2"),
        ([result(9, 1, 0, 0, 20, 20)], [], "by numbers: give the --annotations"),
        ([result(77, 1, 0, 0, 20, 20)], IMAGES, "none of the 3 photos .such as folder/4.jpg., but for '77'"),
        ([], IMAGES, "none of the 3 photos"),
        ([result("\ud800", 1, 0, 0, 20, 20)], IMAGES, "but for '.ud800'"),
    ],
)
def test_wrong_file_is_one_line_that_names_it(tmp_path, contents, images, words):
    with pytest.raises(UserError, match=words) as error:
        read(write(tmp_path / "r.json", contents), images)
    assert f"--proposals_file={tmp_path / 'r.json'}" in str(error.value) and "\n" not in str(error.value)


def test_truncated_file_is_named(tmp_path):
    path = write(tmp_path / "r.json", [result(9, 1, 0, 0, 20, 20)] * 3)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        read(path)


def test_best_boxes_that_pass_the_filter_are_stored(tmp_path):
    paint(0).save(tmp_path / "9.jpg")
    boxes = [[10, 10, 40, 40], [11, 10, 40, 40], [60, 20, 16, 16], [0, 0, 100, 20], [100, 60, 50, 36]]
    path = write(tmp_path / "r.json", [result(9, 1 - index / 10, *box) for index, box in enumerate(boxes)])
    photos = sources.find_photos(tmp_path)
    settings = shards.Settings("import", 0, min_side=16, max_boxes=10)
    candidates = read(path, ids=[photos[0].image_id]).candidates
    record, *_ = shards.make_record(photos[0], None, settings, candidates["9.jpg"])
    found = record.proposals * [96, 120, 96, 120]
    # The second overlaps the first, the fourth is too flat; the last is cut at the photo's border.
    np.testing.assert_allclose(found, [[10, 10, 50, 50], [20, 60, 36, 76], [60, 100, 96, 120]], atol=1e-4)
    assert shards.make_record(photos[0], None, settings)[0].proposals.shape == (0, 4)


def numbered(first_id, form="{}.jpg"):
    """Images 1 to 9 whose ids begin elsewhere."""
    return [{"id": first_id + i, "file_name": form.format(1 + i)} for i in range(9)]


@pytest.mark.parametrize(
    ("form", "first_id", "text", "wanted", "told"),
    [
        ("{}.jpg", 0, "{}", "4.jpg", "8 image_ids in text that could be names too taken as ids of the json"),
        ("{:03}.jpg", 0, "{:03}", "003.jpg", "8 image_ids in text that could be ids of the json too taken as names"),
        ("{:03}.jpg", 1, "{:03}", "003.jpg", None),
        ("a{}.jpg", 0, "{:03}", "a4.jpg", None),
        ("a{}.jpg", 0, "a{}.jpg", "a3.jpg", None),
    ],
)
def test_texts_are_names_or_ids_all_alike(tmp_path, form, first_id, text, wanted, told):
    images, ids = numbered(first_id, form), [form.format(1 + i) for i in range(9)]
    results = [result(text.format(i), 1, i, 0, 20, 20) for i in range(0 if first_id == 0 and text == "{}" else 1, 9)]
    found = read(write(tmp_path / "r.json", results), images, ids)
    assert found.candidates[wanted].boxes_xywh_px[:, 0].tolist() == [3]
    lines = [line.removeprefix(f"--proposals_file={tmp_path / 'r.json'}: ") for line in found.findings[0].lines()]
    assert any(line.startswith(told) for line in lines) if told else lines == [], lines


def test_photos_that_two_files_have_boxes_for_are_told(tmp_path):
    paths = [write(tmp_path / f"{i}.json", [result("9.jpg", 1, i, 0, 20, 20)]) for i in range(2)]
    found = imported.read_proposals(paths, [None, None], [IDS, IDS], ["", ""], 16)
    assert found.candidates["folder/9.jpg"].boxes_xywh_px[:, 0].tolist() == [1]
    assert "1 photo that an earlier file has boxes for: they are replaced" in found.findings[1].lines()[0]


def test_files_of_sources_with_equal_names_stay_apart(tmp_path):
    paths = [write(tmp_path / f"{i}.json", [result("9.jpg", 1, i, 0, 20, 20)]) for i in range(2)]
    ids = [["t/9.jpg"], ["v/9.jpg", "v/8.jpg"]]
    found = imported.read_proposals(paths, [None, None], ids, ["t/", "v/"], 16)
    assert [found.candidates[one].boxes_xywh_px[0, 0] for one in ("t/9.jpg", "v/9.jpg")] == [0, 1]
    assert found.report["first_photos_without_boxes"] == ["v/8.jpg"] and found.findings[1].lines() == []
