"""`python -m univip_jax.detect`: its files, what others' tools read of them, and what a user can get wrong."""

import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
from absl import flags
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data_prep.inputs import Request as Preparation
from data_prep.prepare import prepare
from data_prep.record import Settings
from tests.detection.scene import CATEGORIES, DETECTOR, NET, SPEC, TINY, mesh_of, prepare_scene, write_scene
from tests.weights.random_detector import detector_variables
from univip_jax.common import cli
from univip_jax.common.errors import UserError
from univip_jax.data.detection.sets import open_set
from univip_jax.data.records import open_dataset, parse, read_shard
from univip_jax.detect import __main__ as detect
from univip_jax.detect.__main__ import Request, detect_folder
from univip_jax.detection import drawing
from univip_jax.detection.evaluation import evaluate_detector
from univip_jax.weights.detector_file import write_detector

VARIABLES = detector_variables(NET)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a detector of random weights."""
    folder = tmp_path_factory.mktemp("run")
    named = sorted(CATEGORIES, key=lambda one: one["id"])
    facts = {"categories": named, "detector": dataclasses.asdict(TINY), "input": dataclasses.asdict(SPEC), "step": 3}
    write_detector(folder / "detector.safetensors", NET, VARIABLES, facts)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three photos of the scene in two folders, one that EXIF turns, one that is none."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    write_scene(folder)
    for name in ("7", "1", "12"):
        (folder / f"{name}.png").unlink()
    (folder / "below").mkdir()
    (folder / "100.png").rename(folder / "below" / "100.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "30.png").rotate(90, expand=True).save(folder / "turned.jpg", exif=exif, quality=95)
    (folder / "z.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def found(run, photos):
    """The closing line and the files' folder."""
    out = photos.parent / "out"
    out.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detect, "available_cores", lambda: 1)
        line = detect_folder(Request(str(run), str(photos), out / "found.json", out / "drawn", 0.06, batch_size=4))
    return line, out


def test_files_name_every_photo(found):
    line, out = found
    images = json.loads((out / "found.images.json").read_text())
    sizes = {one["id"]: (one["height"], one["width"]) for one in images["images"]}
    assert sizes == dict.fromkeys(("200.png", "30.png", "below/100.png", "turned.jpg"), (160, 200))
    assert images["categories"] == sorted(CATEGORIES, key=lambda one: one["id"]) and images["info"]["step"] == 3
    rejected = [json.loads(row) for row in (out / "found.rejected.jsonl").read_text().splitlines()]
    assert rejected == [{"id": "z.jpg", "reason": "not an image"}]
    entries = json.loads((out / "found.json").read_text())
    assert f"{len(entries)} detections in 4 photos, without 1 that cannot be read; " in line
    assert len(entries) > 8 and {entry["category_id"] for entry in entries} <= {2, 5, 9}
    for entry in entries:
        x, y, width, height = entry["bbox"]
        assert 0 <= x < x + width <= 200.01 and 0 <= y < y + height <= 160.01 and entry["score"] > 0.05
        assert rle.decode(entry["segmentation"]).shape == (160, 200)
    assert sorted(path.name for path in out.iterdir()) == [
        "drawn", "found.images.json", "found.json", "found.rejected.jsonl"
    ]  # fmt: skip


def test_detections_are_the_evaluations(run, photos, found, tmp_path):
    """Of the same photos in a prepared set, with other ids, in batches of 4 on 4 devices."""
    contents = write_scene(tmp_path / "photos")
    names = {"200.png": 200, "30.png": 30, "below/100.png": 100}
    for image in contents["images"]:
        if image["id"] not in names.values():
            (tmp_path / "photos" / image["file_name"]).unlink()
    test = open_set(prepare_scene(tmp_path / "photos", contents, tmp_path / "set"))
    evaluate_detector(DETECTOR, VARIABLES, test, SPEC, tmp_path / "judged", batch_size=4, num_photos=0, mesh=mesh_of(4))
    expected = json.loads((tmp_path / "judged/detections.json").read_text())
    entries = json.loads((found[1] / "found.json").read_text())
    mine = [one | {"image_id": names[one["image_id"]]} for one in entries if one["image_id"] in names]
    key = lambda one: (one["image_id"], -one["score"])  # noqa: E731
    assert sorted(mine, key=key) == sorted(expected, key=key)


def test_pycocotools_reads_the_list(found):
    """Its own detections as the truth: AP 100, where each is another object."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(found[1] / "found.images.json"))
        results = coco.loadRes(str(found[1] / "found.json"))
        judged = COCOeval(results, results, "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    assert sorted(results.imgs) == ["200.png", "30.png", "below/100.png", "turned.jpg"] and judged.stats[0] > 0.9


def test_data_prep_takes_the_list_as_proposals(found, photos, tmp_path):
    """Without another file; boxes are those of the list, in fractions of the photo."""
    settings = Settings("import", 0, 1, 100)
    prepare(Preparation(tmp_path / "set", settings, [photos], proposals_file=[found[1] / "found.json"],
                        num_workers=1, max_rejected=0.5))  # fmt: skip
    records = [parse(one) for shard in open_dataset(tmp_path / "set").shards for one in read_shard(shard)]
    proposals = {one["id"].numpy().decode(): one["proposals"].numpy() for one in records}["below/100.png"]
    entries = [one for one in json.loads((found[1] / "found.json").read_text()) if one["image_id"] == "below/100.png"]
    boxes = np.array(
        [[y / 160, x / 200, (y + h) / 160, (x + w) / 200] for x, y, w, h in (one["bbox"] for one in entries)]
    )
    assert 2 <= len(proposals) <= len(boxes)  # without long and equal ones
    assert np.abs(proposals[:, None] - boxes[None]).max(-1).min(-1).max() < 1e-4


def test_pictures_are_of_the_upright_photos(found):
    names = sorted(path.name for path in (found[1] / "drawn").iterdir())
    assert names == ["000000_200.png.jpg", "000001_30.png.jpg", "000002_below_100.png.jpg", "000003_turned.jpg.jpg"]
    sizes = {Image.open(found[1] / "drawn" / name).size for name in names}
    assert sizes == {(640, 512)}  # 200 x 160 px in the photo, 80 x 64 on the canvas


def test_a_drawn_box_lies_where_it_should():
    photo = Image.new("RGB", (100, 50))
    mask = np.zeros([100, 200], bool)
    mask[40:80, 40:100] = True
    one = drawing.Drawn(np.array([20, 40, 80, 160.0]), (0, 255, 0), "cup", mask)
    picture = np.asarray(drawing.draw_objects(photo, (100, 200), [one], 200)).astype(int)
    assert picture.shape == (100, 200, 3)
    assert (picture[20, 41:160] == (0, 255, 0)).all() and (picture[81, 41:160] == 0).all()
    assert picture[60, 60, 1] == pytest.approx(100, abs=2) and picture[60, 130].max() == 0  # mask, and beside it
    assert picture[5:18, 41:50, 1].max() == 255  # the label, above


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "found.json"}, r"found\.json exists already: choose another --out or delete it"),
        ({"out": "found"}, r"found\.images\.json exists already: choose another --out"),
        ({"draw": "drawn"}, r"drawn exists already: choose another --draw"),
        ({"run": "."}, r"--run=.* is no detector: name the --workdir of a trained one, or its file"),
        ({"images": "drawn/nowhere"}, r"--images=.*: no such folder"),
    ],
)
def test_mistakes_are_one_line(run, photos, found, changes, message):
    place = found[1]
    asked = {"run": str(run), "images": str(photos), "out": "new.json"} | changes
    paths = {name: place / asked[name] for name in ("out", "draw") if name in asked}
    asked |= {name: str(place / value) for name, value in changes.items() if name in ("run", "images")}
    before = sorted(place.rglob("*"))
    with pytest.raises(UserError, match=message) as error:
        detect_folder(Request(**asked | paths))
    assert "\n" not in str(error.value) and sorted(place.rglob("*")) == before


def test_a_folder_without_readable_photos_writes_no_detections(run, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 1 photos can be read, as a.jpg \(empty file\): see"):
        detect_folder(Request(str(run), str(tmp_path / "photos"), tmp_path / "d.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.rejected.jsonl", "photos"]


def test_a_detector_that_names_no_classes_needs_a_json(photos, tmp_path):
    path = tmp_path / "d.safetensors"
    write_detector(path, NET, VARIABLES, {})
    request = Request(str(path), str(photos), tmp_path / "d.json")
    with pytest.raises(UserError, match="does not name its 3 classes: give --categories=FILE"):
        detect_folder(request)
    source = tmp_path / "source.json"
    for rows, message in ((CATEGORIES[:2], "has 2 categories, the detector 3 classes"), ("x", "is no COCO json")):
        source.write_text(json.dumps({"categories": rows}))
        with pytest.raises(UserError, match=message):
            detect_folder(request._replace(categories=str(source)))
    source.write_text(json.dumps({"categories": CATEGORIES}))
    found = detect.categories_of(detect.read_detector(path), path, str(source))
    assert [tuple(one) for one in found] == [(2, "cup"), (5, "hat"), (9, "plate")]


def test_flags_make_the_request(monkeypatch, capsys):
    own = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", own)
    monkeypatch.setattr(detect.flags, "FLAGS", own)
    for name in ("DEFINE_float", "DEFINE_integer", "DEFINE", "DEFINE_multi"):
        define = getattr(flags, name)
        monkeypatch.setattr(flags, name, lambda *rest, define=define, **more: define(*rest, flag_values=own, **more))
    detect._define_flags()
    asked = []
    monkeypatch.setattr(detect, "detect_folder", lambda request: asked.append(request) or "done")
    cli.parse_flags(detect.NAME, detect.REQUIRED)(["detect", "--run=r", "--images=i", "--out=o.json", "--draw=d"])
    detect._work()
    assert asked[0]._asdict() == {
        "run": "r", "images": "i", "out": detect.Path("o.json"), "draw": detect.Path("d"), "threshold": 0.5,
        "batch_size": 8, "categories": None,
    }  # fmt: skip
    with pytest.raises(SystemExit) as error:
        cli.parse_flags(detect.NAME, detect.REQUIRED)(["detect", "--run=r", "--images=i", "--out=o", "--threshold=2"])
    assert error.value.code == 2 and "--threshold=2: 2.0 is not a number in the range [0, 1]" in capsys.readouterr().err
