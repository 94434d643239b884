"""The truth of a prepared set, and what a detector's evaluation makes of detections."""

import contextlib
import io
import json
import os

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.detection.scene import CROWD, DETECTOR, SPEC, Oracle, mesh_of, outline, prepare_scene, write_scene
from univip_jax.data.detection.sets import open_set
from univip_jax.data.detection.testing import rows_of_canvases
from univip_jax.data.detection.truth import image_ids, read_truth
from univip_jax.detection import evaluation
from univip_jax.detection.coco_ap import STATISTICS, Found, PhotoMatches, results_of
from univip_jax.detection.evaluation import evaluate_detector
from univip_jax.detection.page import best_threshold, choose_photos


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The json, and the set prepared in full size and shrunk to half."""
    root = tmp_path_factory.mktemp("scene")
    contents = write_scene(root / "photos")
    full = prepare_scene(root / "photos", contents, root / "full")
    return contents, open_set(full), open_set(prepare_scene(root / "photos", contents, root / "half", max_side=100))


def judge(test, found, folder, *, batch_size=4, num_devices=4, num_photos=0, num_workers=1, page=False):
    """The results with an oracle's detections."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "available_cores", lambda: num_workers)
        if not page:
            patch.setattr(evaluation, "write_page", lambda *_: None)
        patch.setattr(evaluation, "Predictor", lambda *_: Oracle(read_truth(test, num_photos), test, found))
        return evaluate_detector(
            DETECTOR, {}, test, SPEC, folder, batch_size=batch_size, num_photos=num_photos, mesh=mesh_of(num_devices)
        )


def perfect(contents) -> dict:
    """The truth as detections, without crowds."""
    found = {}
    for number, one in enumerate(contents["annotations"]):
        if not one["iscrowd"]:
            found.setdefault(one["image_id"], []).append((one["category_id"], *one["bbox"], 0.9 - number / 100))
    return found


@pytest.mark.parametrize("which", [1, 2], ids=["full", "half"])
def test_the_truth_is_the_json_that_the_set_was_made_from(scene, which):
    """In its frame, whatever the size of the records; masks by pycocotools."""
    contents, truth = scene[0], read_truth(scene[which]).contents
    assert sorted(scene[which].sizes.max(1).tolist()) == [[200] * 6, [100] * 6][which - 1]
    assert sorted(truth["images"], key=lambda one: one["id"]) == sorted(contents["images"], key=lambda one: one["id"])
    assert truth["categories"] == sorted(contents["categories"], key=lambda one: one["id"])
    sizes = {one["id"]: (one["height"], one["width"]) for one in contents["images"]}

    def facts(one):
        mask = outline(one, *sizes[one["image_id"]])
        box = rle.toBbox(rle.encode(np.asfortranarray(mask))).tolist()
        return one["image_id"], one["category_id"], one["iscrowd"], *one["bbox"], one["area"], box, mask.sum()

    assert sorted(map(facts, truth["annotations"])) == sorted(map(facts, contents["annotations"]))
    assert [one["id"] for one in truth["annotations"]] == list(range(1, len(contents["annotations"]) + 1))


def test_ids_are_the_jsons_or_numbers():
    assert image_ids([b"139", b'"a7"']) == [139, "a7"]
    assert image_ids([b"139", b"139"]) == [1, 2]  # of two jsons
    assert image_ids([b"", b""]) == [1, 2]


@pytest.mark.parametrize("which", [1, 2], ids=["full", "half"])
def test_the_truth_as_detections_has_ap_100(scene, which, tmp_path):
    """Also where the records are half as large as the photos in the json."""
    results = judge(scene[which], perfect(scene[0]), tmp_path)
    every = dict.fromkeys(("AP", "AP50", "AP75", "APm"), 100.0) | {"APs": None, "APl": None}
    assert results["box"] == pytest.approx(every) and results["mask"] == pytest.approx(every)
    assert results["per_class"]["mask"] == pytest.approx({"cup": 100, "hat": 100, "plate": 100})
    assert (results["evaluated_photos"], results["detections"], results["truncated_nms"]) == (6, 12, 0)
    found = json.loads((tmp_path / "detections.json").read_text())
    one = next(entry for entry in found if entry["image_id"] == 30 and entry["category_id"] == 9)
    (source,) = (one for one in scene[0]["annotations"] if one["image_id"] == 30 and one["category_id"] == 9)
    np.testing.assert_allclose(one["bbox"], source["bbox"], atol=0.01)
    np.testing.assert_array_equal(rle.decode(one["segmentation"]), outline(source, 160, 200))


def noisy(contents) -> dict:
    """Moved boxes, some of another class, with distinct scores; and some over nothing."""
    rng, found = np.random.default_rng(0), {}
    for image_id, boxes in perfect(contents).items():
        for category, x, y, width, height, _ in boxes * 2:
            moved = np.maximum(np.array([x, y, width, height]) + rng.normal(0, 4, 4), 2)
            wrong = rng.random() < 0.3
            found.setdefault(image_id, []).append((5 if wrong else category, *moved.tolist(), float(rng.random())))
    return found | {1: [(2, 20, 20, 40, 40, 0.95)]}


def test_numbers_are_pycocotools_own(scene, tmp_path):
    """Its usual calls on the source json and the written file."""
    results = judge(scene[1], noisy(scene[0]), tmp_path)
    (tmp_path / "source.json").write_text(json.dumps(scene[0]))
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(tmp_path / "source.json"))
            judged = COCOeval(coco, coco.loadRes(str(tmp_path / "detections.json")), kind)
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
        expected = [None if value < 0 else 100 * value for value in judged.stats[:6]]
        assert [results[name][one] for one in STATISTICS] == pytest.approx(expected)
        assert 5 < results[name]["AP"] < 95


def test_files_do_not_depend_on_batches_devices_and_workers(scene, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    contents = []
    for batch_size, num_devices, num_workers in ((1, 1, 1), (4, 4, 1), (6, 2, 2)):
        folder, shared = tmp_path / str(batch_size), {"num_devices": num_devices, "num_workers": num_workers}
        judge(scene[1], noisy(scene[0]), folder, batch_size=batch_size, **shared)
        contents.append((folder / "detections.json").read_bytes())
    assert contents[0] == contents[1] == contents[2]
    ids = [entry["image_id"] for entry in json.loads(contents[0])]
    assert ids == sorted(ids) and len(set(ids)) == 6
    assert "OMP_NUM_THREADS" not in os.environ  # the workers' alone


def test_what_lies_in_a_crowd_is_no_mistake(scene, tmp_path):
    """Detections with the highest score: over the crowd, they count as nothing; beside it, as wrong."""
    (crowd,) = (one for one in scene[0]["annotations"] if one["iscrowd"])
    found = perfect(scene[0])
    within = found | {7: [*found[7], (CROWD["category_id"], *crowd["bbox"], 0.99)]}
    beside = found | {7: [*found[7], (CROWD["category_id"], 0, 130, 60, 70, 0.99)]}
    assert judge(scene[1], within, tmp_path)["mask"]["AP"] == pytest.approx(100)
    results = judge(scene[1], beside, tmp_path)
    assert results["box"]["AP"] < 99 and results["per_class"]["box"]["plate"] == pytest.approx(100)


def test_nothing_found_is_0(scene, tmp_path):
    results = judge(scene[1], {}, tmp_path, page=True)
    assert results["box"]["AP"] == results["mask"]["AP50"] == 0 and results["detections"] == 0
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert "0 detections in 6 photos with 12 objects of 3 classes" in (tmp_path / "detections.html").read_text()


def test_the_first_photos_alone(scene, tmp_path):
    """The truth is theirs, too: what is not looked for is not missed."""
    truth = read_truth(scene[1], 2)
    ids = [one["id"] for one in truth.contents["images"]]
    assert len(ids) == 2 and {one["image_id"] for one in truth.contents["annotations"]} <= set(ids)
    results = judge(scene[1], perfect(scene[0]), tmp_path, num_photos=2)
    assert results["evaluated_photos"] == 2 and results["box"]["AP"] == pytest.approx(100)


def test_text_ids_and_photos_without_a_name(tmp_path, capsys):
    contents = write_scene(tmp_path / "photos", text_ids=True)
    contents["images"] = [one for one in contents["images"] if one["file_name"] != "1.png"]
    test = open_set(prepare_scene(tmp_path / "photos", contents, tmp_path / "set"))
    results = judge(test, perfect(contents), tmp_path / "run")
    assert "1 photos that no json names are not judged" in capsys.readouterr().out
    assert results["evaluated_photos"] == 5 and results["mask"]["AP"] == pytest.approx(100)
    found = json.loads((tmp_path / "run/detections.json").read_text())
    assert {one["image_id"] for one in found} == {f"photo {number}" for number in (30, 7, 200, 12, 100)}


def test_batches_hold_every_photo_once():
    sizes = np.array([[60, 90], [90, 60], [50, 50], [30, 90], [90, 61]])
    batches = rows_of_canvases(sizes, np.arange(5), SPEC, 2)
    assert [batch.canvas for batch in batches] == [(64, 96), (64, 96), (96, 64)]
    assert [batch.photos[: batch.number].tolist() for batch in batches] == [[0, 2], [3], [1, 4]]
    assert all(len(batch.photos) == 2 for batch in batches)


def test_boxes_without_area_are_left_out():
    found = Found(1, 10, 10, np.array([[2, 2, 2, 5], [-3, 1, 4, 20.0]]), np.array([0.5, 0.4]), [3, 4])
    assert results_of(found) == [{"image_id": 1, "category_id": 4, "bbox": [1, 0, 9, 4], "score": 0.4}]


def test_the_page_shows_good_and_bad_photos_and_a_threshold(scene, tmp_path):
    """By hand: two photos; at .6, 2 of 3 detections are correct and 1 of 3 objects is missed."""
    scores = np.array([0.9, 0.8, 0.6, 0.3])
    matches = {
        1: PhotoMatches(np.array([0, 2]), np.array([True, True]), np.array([1, 2]), np.array([0.9, 0.6])),
        2: PhotoMatches(np.array([1, 3]), np.array([False, False]), np.array([3]), np.array([-1.0])),
    }
    assert best_threshold(scores, matches) == pytest.approx((0.6, 2 * 2 / (3 + 3)))
    assert choose_photos(scores, matches, 0.6) == ([1], [2])
    judge(scene[1], noisy(scene[0]), tmp_path, page=True)
    page = (tmp_path / "detections.html").read_text()
    assert page.count('class="photo"') == 6 and page.count("data:image/jpeg;base64,") == 12
    assert page.count("<svg") == 4 and "mean of 3 classes" in page
