"""Annotations and boxes of several files on the way into a data set: what is told, what the manifest says."""

import json

import numpy as np
import pytest

from data_prep import record, shards
from data_prep.inputs import Request, load
from data_prep.prepare import prepare
from tests.data_prep.painted import paint
from univip_jax.common.errors import UserError
from univip_jax.data import records
from univip_jax.data.photos.listing import Objects, Opened, PhotoFile

ANNOTATED = shards.Settings("annotated", 256, 16, 20)


@pytest.fixture
def folders(tmp_path):
    """Two folders with photos of the same names, 96 x 120 px."""
    for place, name in enumerate(("t", "v")):
        (tmp_path / name).mkdir()
        for i in range(3):
            paint(10 * place + i).save(tmp_path / name / f"{i}.jpg")
    return [tmp_path / "t", tmp_path / "v"]


def coco(path, names=("0.jpg", "1.jpg", "2.jpg"), box=(10, 20, 30, 40), **more):
    """A json that annotates one object on each of the names."""
    images = [{"id": i, "file_name": name, "height": 96, "width": 120} for i, name in enumerate(names)]
    one = {"category_id": 1, "bbox": list(box), "area": 9.5}
    annotations = [{"id": 50 + i, "image_id": i} | one for i in range(len(names))]
    ordinary = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    path.write_text(json.dumps(ordinary | more))
    return path


def stored(out):
    """Proposals by image id, xywh in px."""
    found = {}
    for shard in records.open_dataset(out).shards:
        for serialized in records.read_shard(shard):
            parsed = {key: value.numpy() for key, value in records.parse(serialized).items()}
            y0, x0, y1, x1 = np.round(parsed["proposals"] * [96, 120, 96, 120], 2).T
            found[parsed["id"].decode()] = np.stack([x0, y0, x1 - x0, y1 - y0], axis=-1).tolist()
    return found


def test_as_many_json_as_sources_belong_to_them_in_order(folders, tmp_path):
    jsons = [coco(tmp_path / "t.json"), coco(tmp_path / "v.json", box=[1, 2, 50, 60])]
    prepare(Request(tmp_path / "out", ANNOTATED, folders, jsons, num_workers=1))
    wanted = {"t": [[10, 20, 30, 40]], "v": [[1, 2, 50, 60]]}
    assert stored(tmp_path / "out") == {f"{name}/{i}.jpg": wanted[name] for name in wanted for i in range(3)}


def test_json_of_another_source_is_refused_with_the_order(folders, tmp_path):
    paint(5).save(folders[0] / "only.jpg")
    jsons = [coco(tmp_path / "t.json"), coco(tmp_path / "only.json", ["only.jpg"])]
    with pytest.raises(UserError, match=r"only\.json names none of the 3 photos .such as v/0.jpg.: as many .*order"):
        load(Request(tmp_path / "out", ANNOTATED, folders, jsons))


def test_other_numbers_of_json_go_over_all_photos(folders, tmp_path):
    one = coco(tmp_path / "one.json", ["t/0.jpg", "1.jpg", "data/v/2.jpg"])
    loaded = load(Request(tmp_path / "out", ANNOTATED, folders, [one]))
    assert sorted(loaded.annotations) == ["t/0.jpg", "v/2.jpg"]
    said = "\n".join(line.removeprefix(f"--annotations={one}: ") for line in loaded.lines)
    assert said.startswith("names 2 of 6 photos")
    assert "2 photos left without annotations because several images or photos fit equally well" in said
    assert "--proposals=annotated: 4 photos without an annotated object (first: 't/1.jpg')" in said
    again = coco(tmp_path / "again.json", ["t/0.jpg"], box=[1, 2, 50, 60])
    third = coco(tmp_path / "third.json", ["v/0.jpg"])
    loaded = load(Request(tmp_path / "out", ANNOTATED, folders, [one, again, third]))
    assert loaded.annotations["t/0.jpg"].boxes_xywh_px.tolist() == [[1, 2, 50, 60]]
    assert loaded.findings["annotations"][1]["photos_annotated_twice"] == {"count": 1, "first": ["'t/0.jpg'"]}


@pytest.mark.parametrize(
    ("box", "repeat", "settings", "said"),
    [
        (
            [0.1, 0.2, 0.3, 0.4],
            4,
            {},
            "1 photo whose boxes all lie within one pixel: are they fractions? COCO's are px",
        ),
        ([5, 5, 900, 900], 1, {}, "1 photo with boxes that end outside the stated size, clipped to it"),
        ([5, 5, 20, 20], 2, {}, "1 annotation whose id another one has too, all kept (first: "),
        ([5, 5, 20, 20], 3, {"max_boxes": 2}, "1 photo with more objects than --max_boxes=2, whose first are taken"),
    ],
)
def test_boxes_that_cannot_be_meant_so_are_told(folders, tmp_path, box, repeat, settings, said):
    path = coco(tmp_path / "c.json", ["0.jpg"], box=box)
    contents = json.loads(path.read_text())
    contents["annotations"] *= repeat
    path.write_text(json.dumps(contents))
    loaded = load(Request(tmp_path / "out", ANNOTATED._replace(**settings), folders[:1], [path]))
    assert any(said in line for line in loaded.lines), loaded.lines
    assert len(loaded.annotations["0.jpg"].labels) == repeat


def test_what_was_odd_is_printed_and_stands_in_the_manifest(folders, tmp_path, capsys):
    path = coco(tmp_path / "c.json", ["0.jpg", "1.jpg", "9.jpg"])
    contents = json.loads(path.read_text())
    contents["annotations"] += [{"id": 987654, "image_id": 0, "category_id": 1, "bbox": None}]
    contents["annotations"] += [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": 81}
        for number, box in ((60, [500, 5, 9, 9]), (61, [1, 1, 0, 9]))
    ]
    path.write_text(json.dumps(contents))
    request = Request(tmp_path / "out", ANNOTATED, folders[:1], [path], num_workers=1)
    summary = prepare(request)
    said = capsys.readouterr().out
    assert f"--annotations={path}: names 2 of 3 photos\n" in said
    assert f"--annotations={path}: 1 annotation without a usable box left out (first: 987654)\n" in said
    assert f"--annotations={path}: 1 annotation with a box of no area left out (first: 61)\n" in said
    assert "annotated boxes outside their photos left out: 1 (first in '1.jpg')" in summary
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["objects_outside"] == {"count": 1, "first": ["1.jpg"]}
    assert manifest["annotated"] == {"photos_without_object": {"count": 1, "first": ["'2.jpg'"]}}
    assert manifest["annotations"] == [
        {
            "photos": 3,
            "photos_named": 2,
            "boxes_unusable": {"count": 1, "first": ["987654"]},
            "boxes_empty": {"count": 1, "first": ["61"]},
            "photos_without_image": {"count": 1, "first": ["'2.jpg'"]},
            "images_without_photo": {"count": 1, "first": ["'9.jpg'"]},
        }
    ]
    # A data set of an earlier version, whose manifest lacks all this, is finished, too.
    for name in ("objects_outside", "annotated", "annotations"):
        del manifest[name]
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest))
    said = prepare(request)
    assert "already done: 3 records" in said and "prepared before detection" not in said


def test_set_of_before_detection_says_what_it_lacks_and_is_made_anew_without_its_manifest(folders, tmp_path):
    out, json_file = tmp_path / "out", coco(tmp_path / "c.json")
    request = Request(out, ANNOTATED, folders[:1], [json_file], num_workers=1)
    prepare(request)
    good = {path.name: path.read_bytes() for path in out.iterdir()}
    manifest = json.loads(good["manifest.json"])
    assert manifest.pop("categories") == [{"id": 1, "name": "cat"}]
    (out / "manifest.json").write_text(json.dumps(manifest))
    sidecar = json.loads((out / "photos-00000-of-00001.json").read_text())
    assert sidecar.pop("photos") == {
        "height": [96] * 3, "width": [120] * 3, "num_objects": [1] * 3, "num_masks": [0] * 3, "num_crowds": [0] * 3,
    }  # fmt: skip
    sidecar["spec_hash"] = "that of the version before"
    (out / "photos-00000-of-00001.json").write_text(json.dumps(sidecar))
    (line,) = [line for line in prepare(request).splitlines() if "before detection" in line]
    assert line.startswith(f"warning: {out} was prepared before detection") and f"delete {out}/manifest.json" in line
    (out / "manifest.json").unlink()
    prepare(request)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == good


def test_jsons_of_other_categories_are_refused_and_those_without_any_agree(folders, tmp_path):
    first = coco(tmp_path / "t.json")
    for listed, words in (
        ([{"id": 1, "name": "dog"}], "id 1 is 'dog' and 'cat'"),
        ([{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}], "id 2 is 'dog' and 'missing'"),
    ):
        jsons = [first, coco(tmp_path / "v.json", categories=listed)]
        with pytest.raises(UserError, match=f"v.json has other categories than .*t.json: {words}; give jsons of the s"):
            load(Request(tmp_path / "out", ANNOTATED, folders, jsons))
    jsons = [coco(tmp_path / "v.json", categories=[], annotations=[]), first]
    assert load(Request(tmp_path / "out", ANNOTATED, folders, jsons)).categories == [{"id": 1, "name": "cat"}]
    assert load(Request(tmp_path / "out", ANNOTATED._replace(proposals="none"), folders)).categories is None


def test_ordinary_annotations_leave_no_findings(folders, tmp_path):
    prepare(Request(tmp_path / "out", ANNOTATED, folders[:1], [coco(tmp_path / "c.json")], num_workers=1))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["annotations"] == [{"photos": 3, "photos_named": 3}] and manifest["annotated"] == {}
    assert "objects_outside" not in manifest
    (sidecar,) = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("photos-*.json")]
    assert sidecar.keys() == {
        "version", "shard", "num_records", "bytes", "sha256", "offsets", "verdict", "photo_stats", "rejected",
        "spec_hash", "photos",
    }  # fmt: skip


def test_boxes_of_two_sources_come_from_their_files(folders, tmp_path, capsys):
    jsons = [coco(tmp_path / f"{name}.json", annotations=[]) for name in "tv"]
    files = [tmp_path / f"{name}.boxes" for name in "tv"]
    for x, path in enumerate(files):
        results = [{"image_id": i, "bbox": [x, 2, 30, 40], "score": 1} for i in range(3)]
        results.append({"image_id": 2, "bbox": [x, 200, 30, 40]})
        path.write_text(json.dumps([*results, {"image_id": 0, "bbox": None}]))
    settings = ANNOTATED._replace(proposals="import")
    for name, given in {"with": jsons, "without": []}.items():
        if not given:
            for path in files:
                path.write_text(
                    path.read_text().replace('"image_id": ', '"image_id": "').replace(', "bbox"', '.jpg", "bbox"')
                )
        out = tmp_path / name
        summary = prepare(Request(out, settings, folders, given, files, num_workers=1))
        assert "imported boxes outside their photos left out: 2 (first in 't/2.jpg')" in summary
        assert stored(out) == {f"{name}/{i}.jpg": [[x, 2, 30, 40]] for x, name in enumerate("tv") for i in range(3)}
        assert f"--proposals_file={files[1]}: 1 element without a usable box or image_id" in capsys.readouterr().out
        manifest = json.loads((out / "manifest.json").read_text())
        assert [one["boxes_unusable"]["count"] for one in manifest["import"]["odd"]] == [1, 1]
        assert manifest["import"]["photos_without_boxes"] == 0
        del manifest["import"]["odd"]
        (out / "manifest.json").write_text(json.dumps(manifest))
        assert "already done" in prepare(Request(out, settings, folders, given, files, num_workers=1))


def test_boxes_of_a_source_outside_of_its_photo_are_counted(folders, monkeypatch):
    found = Objects(np.float32([[0, 0, 1, 1], [1.2, 0, 1.5, 1], [0.5, 0.5, 0.5, 1]]), np.arange(3), np.zeros(3, bool))
    encoded = (folders[0] / "0.jpg").read_bytes()
    monkeypatch.setattr(record, "open_photo", lambda photo: Opened(encoded, found))
    made = shards.make_record(PhotoFile("0", "", 0), None, ANNOTATED)
    assert made.outside == {"objects_outside": 1} and made.record.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("image_ids", "named"),
    [
        (["001", "002"], {"001.jpg": 1, "002.jpg": 1}),  # by the files' names, though the ids 1 and 2 are others'
        (["2", "2"], {"001.jpg": 2}),  # the id 2, though no number is padded
        (["002", "7"], {"001.jpg": 1}),  # one is no name: ids
        ([1, True], {"000.jpg": 1}),
        ([2.0**60, 2.0**60], {}),
    ],
)
def test_an_image_id_means_one_image_or_none(tmp_path, image_ids, named):
    for number in range(3):
        paint(number).save(tmp_path / f"{number:03}.jpg")
    images = [{"id": i + 1, "file_name": f"{i:03}.jpg", "height": 64, "width": 64} for i in range(3)]
    images[2]["id"] = 2**60 + 1
    annotated = [{"id": n, "image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9]} for n, i in enumerate(image_ids)]
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"images": images, "annotations": annotated}))
    loaded = load(Request(tmp_path / "out", ANNOTATED, [tmp_path], [path]))
    counts = {one: len(found.labels) for one, found in loaded.annotations.items() if len(found.labels)}
    assert counts == named
