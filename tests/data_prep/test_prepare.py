"""A folder of photos to a data set: the same bytes whoever does it, and only once."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle

from data_prep import check, shards, writing
from data_prep.inputs import Request
from data_prep.prepare import prepare
from tests.data_prep.painted import paint
from univip_jax.common.errors import UserError
from univip_jax.data import records, tfrecord
from univip_jax.data.photos import sources

SETTINGS = shards.Settings("selective_search", 400, 16, 20)


def request_for(images, out, num_workers=1, annotations=None, settings=SETTINGS):
    return Request(Path(out), settings, [images], [annotations] if annotations else [], num_workers=num_workers)


@pytest.fixture(scope="module")
def prepared(photo_folder, tmp_path_factory):
    """The photo folder, prepared once by one worker, and the summary."""
    out = tmp_path_factory.mktemp("prepared") / "new" / "out"
    return out, prepare(request_for(photo_folder, out))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_workers_write_the_bytes_of_one(photo_folder, prepared, tmp_path):
    prepare(request_for(photo_folder, tmp_path, num_workers=2))
    assert contents(tmp_path) == contents(prepared[0])
    assert len(contents(tmp_path)) == 9  # 3 shards, 3 sidecars, manifest, rejected, page


def test_job_array_writes_the_bytes_of_one_process(photo_folder, prepared, tmp_path):
    request = request_for(photo_folder, tmp_path)
    said = prepare(request._replace(task_index=1, num_tasks=4))
    assert "task 1 of 4 is done; 2 of 3 shards (12 photos) are left to other tasks" in said
    assert not (tmp_path / "manifest.json").exists()
    for index in (3, 1, 0):  # task 3 has no shard
        prepare(request._replace(task_index=index, num_tasks=4))
    assert "19 records" in prepare(request._replace(task_index=2, num_tasks=4))
    assert contents(tmp_path) == contents(prepared[0])
    assert "already done" in prepare(request._replace(task_index=0, num_tasks=4))


def test_second_process_on_the_same_output_is_refused(photo_folder, tmp_path):
    with writing.locked(tmp_path, shared=True), pytest.raises(UserError, match="in use: another data_prep"):
        prepare(request_for(photo_folder, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_line_and_leaves_the_finished_shards(photo_folder, prepared, tmp_path, monkeypatch):
    write_shard = tfrecord.write_shard

    def full(path, serialized):
        if "00002" in path.name:
            raise UserError(f"{path} cannot be written (No space left on device): free space or rights, then run again")
        return write_shard(path, serialized)

    monkeypatch.setattr(tfrecord, "write_shard", full)
    with pytest.raises(UserError, match=r"No space left on device.*free space"):
        prepare(request_for(photo_folder, tmp_path))
    done = contents(tmp_path)
    assert done == {name: data for name, data in contents(prepared[0]).items() if name in done} and len(done) == 4
    monkeypatch.undo()
    prepare(request_for(photo_folder, tmp_path))
    assert contents(tmp_path) == contents(prepared[0])


def test_manifest_counts_records_boxes_and_rejections(prepared):
    out, summary = prepared
    dataset = records.open_dataset(out)
    assert (dataset.num_records, dataset.manifest["num_rejected"]) == (19, 1)
    assert dataset.manifest["settings"]["min_side"] == 16
    sidecars = [json.loads(path.read_text()) for path in sorted(out.glob("photos-*.json"))]
    num_boxes = [n for sidecar in sidecars for n in sidecar["verdict"]["num_boxes"]]
    assert dataset.manifest["proposals"]["mean"] == pytest.approx(sum(num_boxes) / 19, abs=1e-3)
    assert dataset.manifest["proposals"]["max"] == max(num_boxes)
    assert dataset.manifest["proposals"]["share_below_4"] == pytest.approx(sum(n < 4 for n in num_boxes) / 19, abs=1e-4)
    (line,) = (out / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "deep/er/10.jpg"
    assert "19 of 20 used, 1 rejected (1 damaged" in summary and f"--config.data.train={out}" in summary


def test_data_set_names_no_path_of_this_machine(photo_folder, prepared):
    named = [name for name, data in contents(prepared[0]).items() if str(photo_folder).encode() in data]
    assert named == []


def test_interrupted_run_resumes_with_the_unfinished_shards(photo_folder, prepared, tmp_path, capsys):
    plan = shards.plan_shards(tmp_path, sources.find_photos(photo_folder), {}, SETTINGS)
    for spec in (plan[0], plan[2]):
        shards.process_shard(spec, lambda: None)
    leftover = tmp_path / f"{plan[1].path.name}.{'0' * 32}.tmp"
    leftover.write_bytes(b"half a shard")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("photos-*-of-*") if path != leftover}
    prepare(request_for(photo_folder, tmp_path))
    assert "2 of 3 shards are done" in capsys.readouterr().out
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in before} == before
    assert contents(tmp_path) == contents(prepared[0])


def test_finished_data_set_is_left_alone_or_mended(photo_folder, prepared):
    out, _ = prepared
    before = contents(out)
    assert "already done: 19 records" in prepare(request_for(photo_folder, out))
    (out / "photos-00001-of-00003.tfrecord").unlink()
    assert "19 records" in prepare(request_for(photo_folder, out))
    assert contents(out) == before


def test_index_file_of_an_earlier_version_is_ignored(photo_folder, prepared, copied):
    (copied / "index.json").write_text("{")
    assert "already done: 19 records" in prepare(request_for(photo_folder, copied))
    (copied / "manifest.json").unlink()
    assert "19 records" in prepare(request_for(photo_folder, copied))
    assert contents(copied) == contents(prepared[0]) | {"index.json": b"{"}


def test_photo_overwritten_with_another_size_is_noticed(tmp_path):
    paint(0).save(tmp_path / "a.jpg")
    request = request_for(tmp_path, tmp_path / "out")
    prepare(request)
    paint(1).save(tmp_path / "a.jpg", quality=99)
    with pytest.raises(UserError, match="holds a finished data set of other photos"):
        prepare(request)


def test_finished_data_set_is_not_overwritten_by_another_request(photo_folder, prepared, tmp_path):
    out, _ = prepared
    with pytest.raises(UserError, match=r"min_side=16, asked for is 17.*another --out"):
        prepare(request_for(photo_folder, out, settings=SETTINGS._replace(min_side=17)))
    paint(0).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"photos \(num=20, asked for is 1\)"):
        prepare(request_for(tmp_path, out))
    (tmp_path / "photos-00000-of-00099.json").write_text("{}")
    with pytest.raises(UserError, match="unfinished run over another number of photos"):
        prepare(request_for(photo_folder, tmp_path))


def test_limit_of_megapixels_is_stored_where_it_is_not_the_default(photo_folder, prepared, tmp_path):
    out, _ = prepared
    assert "max_megapixels" not in json.loads((out / "manifest.json").read_text())["settings"]
    with pytest.raises(UserError, match="max_megapixels=100, asked for is 200"):
        prepare(request_for(photo_folder, out, settings=SETTINGS._replace(max_megapixels=200)))
    prepare(request_for(photo_folder, tmp_path, settings=SETTINGS._replace(max_megapixels=200)))
    assert json.loads((tmp_path / "manifest.json").read_text())["settings"]["max_megapixels"] == 200
    with pytest.raises(UserError, match="max_megapixels=200, asked for is 100"):
        prepare(request_for(photo_folder, tmp_path))


def test_folder_of_damaged_photos_gives_no_data_set(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"none of the 1 photos.*a.jpg': not an image"):
        prepare(request_for(tmp_path, tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_out_that_is_a_file_is_named(photo_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out=.*file cannot be used"):
        prepare(request_for(photo_folder, tmp_path / "file"))


@pytest.fixture
def copied(prepared, tmp_path):
    """A copy of the prepared data set, to be damaged."""
    for name, data in contents(prepared[0]).items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_check_passes_a_good_data_set(copied):
    manifest, problems, progress = check.check_dataset(copied, num_workers=1)
    assert problems == [] and progress == "" and manifest == records.open_dataset(copied).manifest


def test_check_compares_statistics_with_the_records(copied):
    path = copied / "manifest.json"
    contents = json.loads(path.read_text())
    contents["proposals"]["share_below_8"] = 0.5
    path.write_text(json.dumps(contents))
    (problem,) = check.check_dataset(copied, num_workers=1).problems
    assert "manifest.json: proposals share_below_8 is 0.5, the records say 0.0" in problem


def test_check_of_an_unfinished_data_set_reports_its_progress(copied):
    (copied / "manifest.json").unlink()
    (copied / "photos-00001-of-00003.json").unlink()
    for name, time in (("photos-00000-of-00003.json", 1000), ("photos-00002-of-00003.json", 4600)):
        os.utime(copied / name, (time, time))
    manifest, problems, progress = check.check_dataset(copied, num_workers=1)
    assert (manifest["num_records"], problems) == (12, [])
    assert progress == "unfinished: 2 of 3 shards are done, about 1.0 h are left at the pace of the newest 2"


def test_check_names_the_record_of_a_flipped_bit(copied):
    path = copied / "photos-00001-of-00003.tfrecord"
    offsets = json.loads(path.with_suffix(".json").read_text())["offsets"]
    data = bytearray(path.read_bytes())
    data[offsets[3] + 500] ^= 1
    path.write_bytes(data)
    problems = check.check_dataset(copied, num_workers=1).problems
    assert len(problems) == 2 and all(path.name in problem for problem in problems)
    assert "sha256" in problems[0] and "record 3 does not read" in problems[1]


def test_check_compares_the_sidecars_sizes_with_the_records(copied):
    path = copied / "photos-00001-of-00003.json"
    sidecar = json.loads(path.read_text())
    sidecar["photos"]["width"][2] += 1
    path.write_text(json.dumps(sidecar))
    assert check.check_dataset(copied, num_workers=1).problems == [f"{path}: photos are not those of the records"]


def test_check_continues_after_a_missing_shard(copied):
    (copied / "photos-00000-of-00003.tfrecord").unlink()
    (copied / "photos-00002-of-00003.json").write_text("{")
    (copied / "rejected.jsonl").write_text("")
    problems = check.check_dataset(copied, num_workers=1).problems
    assert ["00000-of" in problems[0], "00002-of" in problems[1], "rejected.jsonl" in problems[2]] == [True] * 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoded": b"not a photo"}, "does not decode"),
        ({"height": 95}, "says 95 x 120 px, the image is 96 x 120"),
        ({"proposals": [[0.5, 0.0, 0.4, 1.0]]}, "proposals 0 is not a box"),
        ({"objects": [[0.0, 0.0, 1.5, 1.0]], "labels": [1]}, "objects 0 is not a box"),
        ({"labels": [1, 2]}, "has 0 objects but 2 labels"),
    ],
)
def test_record_problems_names_the_problem_and_the_photo(tmp_path, changes, words):
    paint(0).save(tmp_path / "a.jpg")
    record, *_ = shards.make_record(sources.find_photos(tmp_path)[0], None, SETTINGS)
    assert check.record_problems(records.serialize(record))[0] == []
    (problem,), _ = check.record_problems(records.serialize(record._replace(**changes)))
    assert words in problem and "a.jpg" in problem


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"areas": np.float32([5])}, ["has 2 objects but 1 areas"]),
        ({"areas": np.float32([5, np.nan])}, ["has an object without an area"]),
        ({"rle": (b"",)}, ["has 2 objects but 1 masks"]),
        ({"rle": (b"", b"T5")}, ["mask 1 does not fill 10 x 20 px"]),
        ({"rle": (b"\xff", b"")}, ["mask 0 does not fill 10 x 20 px"]),
    ],
)
def test_record_problems_names_areas_and_masks_that_do_not_fit(tmp_path, changes, words):
    paint(0).save(tmp_path / "a.jpg")
    record, *_ = shards.make_record(sources.find_photos(tmp_path)[0], None, SETTINGS)
    mask = rle.encode(np.ones([10, 20], np.uint8, order="F"))["counts"]
    in_json = records.InJson("7", 10, 20, np.float32([1, 2]), (mask, b""))._replace(**changes)
    objects = {"objects": np.float32([[0, 0, 1, 1]] * 2), "labels": np.array([1, 2]), "in_json": in_json}
    found, _ = check.record_problems(records.serialize(record._replace(**objects)))
    assert found == [f"(a.jpg): {one}" for one in words]


def test_record_problems_of_other_bytes():
    assert check.record_problems(b"\xff\xff") == (["is not a record of a photo"], {})
