"""Average precision by hand, against a second evaluator, and masks pasted as `grid_sample` does."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as rle

from univip_jax.detection.coco_ap import STATISTICS, Found, average_precision, decode, encode, paste, results_of

CATEGORIES = [{"id": 9, "name": "plate"}, {"id": 2, "name": "cup"}]
HEIGHT, WIDTH = 120, 160


def outline(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def annotated(*boxes, image_id=1, category_id=9, **more):
    """Annotations of rectangles x, y, w, h."""
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": [*box], "area": box[2] * box[3], "iscrowd": 0,
         "segmentation": outline(*box)} | more
        for box in boxes
    ]  # fmt: skip


def truth_of(annotations, ids=(1, 2)):
    images = [{"id": number, "height": HEIGHT, "width": WIDTH} for number in ids]
    numbered = [{"id": place} | one for place, one in enumerate(annotations, start=1)]
    return {"images": images, "categories": CATEGORIES, "annotations": numbered}


def entry(x, y, w, h, score, image_id=1, category_id=9):
    """A detection whose mask fills its box."""
    mask = np.zeros([HEIGHT, WIDTH], bool)
    mask[y : y + h, x : x + w] = True
    return {
        "image_id": image_id, "category_id": category_id, "bbox": [x, y, w, h], "score": score,
        "segmentation": encode(mask),
    }  # fmt: skip


def as_found(annotations):
    """The truth as detections."""
    return [entry(*one["bbox"], 0.9, one["image_id"], one["category_id"]) for one in annotations if not one["iscrowd"]]


def scene():
    """Objects of all three sizes and two classes in two photos, and a crowd."""
    return [
        *annotated((10, 10, 20, 20), (50, 10, 50, 60), (2, 2, 100, 100)),
        *annotated((30, 40, 40, 40), (100, 70, 10, 30), image_id=2, category_id=2),
        *annotated((0, 0, 60, 30), image_id=2, iscrowd=1),
    ]


def test_the_truth_as_detections_has_100():
    """Also with crowds in it; the sizes that no object has are unknown."""
    for kind, score in average_precision(truth_of(scene()), as_found(scene())).items():
        assert score.statistics == pytest.approx(dict.fromkeys(STATISTICS, 100.0)), kind
        assert score.per_class == pytest.approx({"plate": 100.0, "cup": 100.0})
    small = average_precision(truth_of(scene()[:1]), as_found(scene()[:1]))["box"]
    assert small.statistics["APm"] is None and small.statistics["APs"] == pytest.approx(100)
    assert small.per_class == {"plate": pytest.approx(100), "cup": None}


def test_ap_by_hand():
    """Two objects: the best detection is wrong, the next meets one with IoU .8, the last none.

    Precision is 1 / 2 up to a recall of a half, of the 101 recalls 51; at the IoUs .5 to .8, 7 of the 10.
    """
    truth = truth_of(annotated((10, 10, 20, 40), (80, 10, 20, 40)))
    found = [entry(50, 60, 20, 40, 0.9), entry(10, 10, 20, 32, 0.8), entry(120, 60, 20, 40, 0.7)]
    at_one = 100 * 51 / 101 / 2
    for kind, score in average_precision(truth, found).items():
        assert score.statistics["AP50"] == pytest.approx(at_one), kind
        assert score.statistics["AP75"] == pytest.approx(at_one)
        assert score.statistics["AP"] == pytest.approx(at_one * 7 / 10)
        assert score.per_class["plate"] == pytest.approx(at_one * 7 / 10)


def test_a_crowd_is_neither_found_nor_missed():
    """What lies in it is no mistake; beside it, it is: 1 correct below 1 wrong."""
    truth = truth_of([*annotated((10, 10, 20, 40)), *annotated((60, 0, 80, 100), iscrowd=1)])
    inside, beside, good = entry(70, 20, 30, 30, 0.9), entry(10, 80, 30, 30, 0.9), entry(10, 10, 20, 40, 0.5)
    for kind in ("box", "mask"):
        assert average_precision(truth, [inside, good])[kind].statistics["AP"] == pytest.approx(100)
        assert average_precision(truth, [beside, good])[kind].statistics["AP"] == pytest.approx(50)


def test_an_object_without_a_mask_counts_for_boxes_alone():
    truth = truth_of([*annotated((10, 10, 20, 40)), *annotated((60, 10, 20, 40), segmentation=[])])
    scores = average_precision(truth, [entry(10, 10, 20, 40, 0.9)])
    assert scores["mask"].statistics["AP"] == pytest.approx(100)
    assert scores["box"].statistics["AP"] == pytest.approx(100 * 51 / 101)


def test_nothing_found_is_0():
    for score in average_precision(truth_of(scene()), []).values():
        assert score.statistics["AP"] == 0 and score.per_class == {"plate": 0, "cup": 0}


def noisy():
    """Moved boxes, some of another class, some twice; with distinct scores."""
    rng, found = np.random.default_rng(0), []
    for one in scene()[:5] * 4:
        x, y, w, h = (np.array(one["bbox"]) + rng.integers(-6, 7, 4)).clip(1, 100).tolist()
        category = int(rng.choice([9, 2], p=[0.7, 0.3]))
        found.append(entry(x, y, w, h, float(rng.random()), one["image_id"], category))
    return found


def test_a_second_evaluator_gives_the_same():
    """faster-coco-eval, where it is installed."""
    other = pytest.importorskip("faster_coco_eval")
    scores = average_precision(truth_of(scene()), noisy())
    for kind, name in (("box", "bbox"), ("mask", "segm")):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = other.COCO(truth_of(scene()))
            judged = other.COCOeval_faster(coco, coco.loadRes(noisy()), name)
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
        expected = [100 * value for value in judged.stats[:6]]
        assert [scores[kind].statistics[one] for one in STATISTICS] == pytest.approx(expected, abs=1e-9)
        assert 1 < scores[kind].statistics["AP"] < 90


def test_order_and_kind_of_ids_change_nothing():
    """Equal scores, too: the photo decides, not the order of the list; ids may be texts."""
    found = [one | {"score": round(one["score"], 1)} for one in noisy()]
    expected = average_precision(truth_of(scene()), found)["box"].statistics
    order = sorted(found, key=lambda one: -one["image_id"])
    assert average_precision(truth_of(scene(), ids=(2, 1)), order)["box"].statistics == expected

    def texts(rows):
        return [one | {"image_id": f"photo {one['image_id']}"} for one in rows]

    truth = truth_of(texts(scene()), ids=("photo 1", "photo 2"))
    assert average_precision(truth, texts(found))["box"].statistics == expected


def by_hand(mask, box, height, width):
    """`grid_sample` of zero padding without aligned corners, pixel by pixel; then the threshold."""
    pasted, side = np.zeros([height, width], bool), len(mask)
    for row, column in np.ndindex(height, width):
        y = (row + 0.5 - box[0]) / (box[2] - box[0]) * side - 0.5
        x = (column + 0.5 - box[1]) / (box[3] - box[1]) * side - 0.5
        value = 0.0
        for i in (int(np.floor(y)), int(np.floor(y)) + 1):
            for j in (int(np.floor(x)), int(np.floor(x)) + 1):
                if 0 <= i < side and 0 <= j < side:
                    value += (1 - abs(y - i)) * (1 - abs(x - j)) * mask[i, j]
        pasted[row, column] = value >= 0.5
    return pasted


@pytest.mark.parametrize(
    "box", [(10.3, 5.2, 33.8, 40.1), (-7.5, 20.0, 12.25, 60.5), (3.2, 4.1, 3.9, 6.0), (0, 0, 40, 50), (5, 5, 5, 9)]
)
def test_masks_are_pasted_at_the_pixels_centres(box):
    """Within the photo, beyond it, smaller than a pixel, the whole photo; a box without area is empty."""
    mask = np.random.default_rng(0).random((28, 28))
    expected = by_hand(mask, box, 40, 50) if box[2] > box[0] else np.zeros([40, 50], bool)
    np.testing.assert_array_equal(paste(mask, np.array(box), 40, 50), expected)


def test_detections_are_in_cocos_format():
    """Boxes within the photo as x, y, width, height; one that lost its area is left out; masks run lengths."""
    boxes = np.array([[10, 20, 30, 60], [-5, 100, 20, 300], [130, 0, 150, 40.0]])
    masks = np.ones([3, 28, 28], np.float16)
    first, second = results_of(Found("a", HEIGHT, WIDTH, boxes, np.array([0.9, 0.5, 0.4]), [9, 2, 9], masks))
    assert (first["image_id"], first["category_id"], first["score"]) == ("a", 9, 0.9)
    assert first["bbox"] == [20, 10, 40, 20] and second["bbox"] == [100, 0, 60, 20] and second["category_id"] == 2
    expected = np.zeros([HEIGHT, WIDTH], bool)
    expected[10:30, 20:60] = True
    np.testing.assert_array_equal(decode(first["segmentation"], HEIGHT, WIDTH), expected)


def test_outlines_of_every_kind_are_read():
    """Polygons, run lengths as numbers, and compressed ones."""
    expected = np.zeros([HEIGHT, WIDTH], bool)
    expected[40:70, 30:90] = True
    runs = [30 * HEIGHT + 40, *[30, HEIGHT - 30] * 59, 30, HEIGHT * WIDTH - 89 * HEIGHT - 70]
    assert sum(runs) == HEIGHT * WIDTH
    for segmentation in (outline(30, 40, 60, 30), {"size": [HEIGHT, WIDTH], "counts": runs}, encode(expected)):
        np.testing.assert_array_equal(decode(segmentation, HEIGHT, WIDTH), expected)
    assert rle.area(encode(expected)) == 1800
