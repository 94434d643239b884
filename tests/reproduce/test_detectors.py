"""Tables 2 to 5 and the box AP of Tables 7 and 8: what is compared with the paper, and what is not."""

import pytest

from configs import coco, imagenet
from tests.reproduce.made_up import DETECTION_SETTINGS, rows, write_detection, write_result, write_run
from univip_jax.reproduce.rows import TABLES
from univip_jax.reproduce.table import compare


def test_detectors_of_equal_settings_are_averaged(tmp_path):
    """40.0 and 41.0: 40.5, std sqrt 0.5. Only the row that was trained is not missing."""
    write_run(tmp_path / "coco", coco.get_config())
    write_detection(tmp_path / "a", "/elsewhere/coco", 40.0, 36.0)
    write_detection(tmp_path / "b", "/elsewhere/coco", 41.0, 37.0, seed=1)
    text = compare(TABLES[2], tmp_path)
    averaged = "40.50 ± 0.71 (n = 2) / 36.50 ± 0.71 (n = 2)"
    ours = ["40.8 / 36.8", averaged, "none", "/elsewhere/coco, step 1000000000", "mask_rcnn_fpn 1x"]
    found = rows(text)
    assert found["UniVIP, COCO, 800 epochs"] == [ours]
    assert [name for name, cells in found.items() if cells[0][1] != "missing"][2:] == ["UniVIP, COCO, 800 epochs"]
    assert "# UniVIP, COCO, 800 epochs" not in text and "# BYOL, COCO, 800 epochs" in text
    assert rows(compare(TABLES[4], tmp_path))["UniVIP, COCO, 800 epochs"] == [ours]


def test_a_detector_fills_the_row_of_its_schedule_alone(tmp_path):
    """Table 3 is 2x; Table 5 has a row for each schedule, and box AP alone."""
    write_run(tmp_path / "run", imagenet.get_config())
    for schedule, box in (("1x", 41.0), ("2x", 42.0), ("6x", 43.0), ("500 steps", 3.0)):
        write_detection(tmp_path / schedule, "run", box, 1.0, schedule=schedule)
    found = rows(compare(TABLES[5], tmp_path))
    ours = {name: cells[0][:3] for name, cells in found.items() if name.startswith("UniVIP")}
    assert ours == {
        "UniVIP, ImageNet, 300 epochs, 1x": ["42.2", "41.00", "none"],
        "UniVIP, ImageNet, 300 epochs, 2x": ["43.5", "42.00", "none"],
        "UniVIP, ImageNet, 300 epochs, 6x": ["44.0", "43.00", "none"],
    }
    why = "another protocol than its rows', mask_rcnn_fpn 1x and mask_rcnn_fpn 2x and mask_rcnn_fpn 6x"
    assert f"- mask_rcnn_fpn 500 steps 3.00, run, step 1000000000: {why}" in compare(TABLES[5], tmp_path)
    short = compare(TABLES[3], tmp_path)
    assert rows(short)["UniVIP, ImageNet, 200 epochs"][0][1:3] == ["42.00 / 1.00", "num_epochs 300.0, not 200.0"]
    assert "- mask_rcnn_fpn 6x 43.00, run, step 1000000000: another protocol than its rows', mask_rcnn_fpn 2x" in short


@pytest.mark.parametrize(("protocol", "schedule"), [("mask_rcnn_fpn_moco", "1x"), ("mask_rcnn_fpn", "6x")])
def test_untrained_networks_have_two_protocols(tmp_path, protocol, schedule):
    """The paper has MoCo's numbers at 1x and 2x, InfoMin's at 6x."""
    write_detection(tmp_path / "mine", "random", 30.0, step=0, protocol=protocol, schedule=schedule)
    found = rows(compare(TABLES[5], tmp_path))
    assert {name: cells[0][1] for name, cells in found.items() if name.startswith("random")} == {
        f"random, {each}": "30.00" if each == schedule else "missing" for each in ("1x", "2x", "6x")
    }
    write_detection(tmp_path / "other", "random", 32.0, step=0)
    text = compare(TABLES[2], tmp_path)
    assert "- mask_rcnn_fpn 1x 32.00, random, step 0: another protocol than its rows', mask_rcnn_fpn_moco 1x" in text


def test_what_differs_from_the_protocol_is_printed(tmp_path):
    """Changed settings with their values, sets of another size, a part of the test set, an unfinished pre-training."""
    write_run(tmp_path / "coco", coco.get_config("table7=d"))
    changed = "mask_rcnn_fpn, changed: batch_size, backbone, input.short_sides"
    settings = DETECTION_SETTINGS | {"batch_size": 32, "input.short_sides": [640]}
    less = {"per_class": {"box": {"cat": 30.0}}, "evaluated_photos": 100}
    write_detection(tmp_path / "a", "coco", 30.0, protocol=changed, settings=settings, **less)
    write_run(tmp_path / "short", coco.get_config("table7=d"))
    write_detection(tmp_path / "b", "short", 20.0, step=7, train={"photos": 90})
    a, b = rows(compare(TABLES[7], tmp_path))["(d) scene, instance, box AP"]
    assert a[:3] == [
        "40.5",
        "30.00",
        "evaluation.classes 1, not 80; evaluation.test_photos 100, not 5000; batch_size 32, not the protocol's; "
        "backbone, not the protocol's; input.short_sides [640], not the protocol's",
    ]
    assert b[1:3] == ["20.00", "step 7 of 184800; evaluation.train_photos 90, not 118287"]


def test_box_ap_stands_below_top1(tmp_path):
    write_run(tmp_path / "coco", coco.get_config("table8=k2"))
    write_result(tmp_path / "linear", "coco", 59.0)
    write_detection(tmp_path / "det", "coco", 40.0, 36.0)
    found = rows(compare(TABLES[8], tmp_path))
    assert found["(c) K = 2"][0][:3] == ["59.8", "59.00", "none"]
    assert found["(c) K = 2, box AP"][0][:3] == ["40.4", "40.00", "none"]


def test_boxes_alone_and_detectors_judged_as_they_are(tmp_path):
    """Faster R-CNN has no mask AP; a file of another's detector no training."""
    write_run(tmp_path / "coco", coco.get_config())
    settings = DETECTION_SETTINGS | {"detector.masks": False}
    write_detection(tmp_path / "a", "coco", 39.0, protocol="mask_rcnn_fpn, changed: detector.masks", settings=settings)
    write_detection(tmp_path / "b", "det.pkl", 38.6, 35.2, step=0, protocol=None, schedule=None, train=None)
    text = compare(TABLES[2], tmp_path)
    assert rows(text)["UniVIP, COCO, 800 epochs"][0][1:3] == [
        "39.00 / ?",
        "detector.masks False, not the protocol's",
    ]
    assert "- judged as it is 38.60, det.pkl, step 0: a detector that this result did not train" in text


def test_numbers_are_those_of_the_paper():
    """Columns of the paper's tables, ours and BYOL's, as they are printed there; Table 4 repeats Table 2."""
    paper = {number: [row.paper for row in TABLES[number].rows] for number in TABLES}
    assert [box for box, _ in paper[2]] == [31.0, 39.5, 40.8, 40.0, 41.1, 40.7, 41.6]
    assert [mask for _, mask in paper[2]] == [28.5, 35.6, 36.8, 36.2, 37.1, 36.9, 37.6]
    assert [box for box, _ in paper[3]] == [36.7, 40.8, 42.2, 41.4, 42.8, 42.2, 43.1]
    assert [mask for _, mask in paper[3]] == [33.7, 37.0, 38.2, 37.4, 38.6, 38.0, 38.8]
    assert paper[4] == [(31.0, 28.5), (40.9, 37.0), (40.8, 36.8), (41.1, 37.1), (41.6, 37.6), (42.2, 38.2)]
    assert [box for (box,) in paper[5]] == [31.0, 36.7, 42.7, 40.9, 42.3, 42.6, 42.2, 43.5, 44.0]
    assert [box for (box,) in paper[7][1::2]] == [39.5, 39.6, 40.4, 40.5, 40.8]
    assert [box for (box,) in paper[8][1::2]] == [40.3, 40.8, 39.6, 40.3, 40.5, 40.8, 39.6, 40.4, 40.8, 40.6]
