"""A folder of photos to a data set: the same bytes whoever does it, and only once."""

import json
from pathlib import Path

import pytest
from painted import paint

from data_prep import check, prepare, shards, sources
from data_prep.inputs import Inputs
from univip_jax.data import records
from univip_jax.errors import UserError

SETTINGS = shards.Settings("selective_search", 400, 16, 20)


def request_for(images, out, num_workers=1, annotations=None, settings=SETTINGS):
    inputs = Inputs((Path(images),), (annotations,) if annotations else ())
    return prepare.Request(inputs, Path(out), settings, num_workers)


@pytest.fixture(scope="module")
def prepared(photo_folder, tmp_path_factory):
    """The photo folder, prepared once by one worker, and the summary."""
    out = tmp_path_factory.mktemp("prepared") / "new" / "out"
    return out, prepare.prepare(request_for(photo_folder, out))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_workers_write_the_bytes_of_one(photo_folder, prepared, tmp_path):
    prepare.prepare(request_for(photo_folder, tmp_path, num_workers=2))
    assert contents(tmp_path) == contents(prepared[0])
    assert len(contents(tmp_path)) == 9  # 3 shards, 3 sidecars, index, manifest, rejected


def test_the_manifest_counts(prepared):
    out, summary = prepared
    dataset = records.open_dataset(out)
    assert (dataset.num_records, dataset.manifest["num_rejected"]) == (19, 1)
    assert dataset.manifest["settings"]["min_side"] == 16
    num_boxes = [n for path in sorted(out.glob("photos-*.json")) for n in json.loads(path.read_text())["num_boxes"]]
    assert dataset.manifest["proposals"]["mean"] == pytest.approx(sum(num_boxes) / 19, abs=1e-3)
    assert dataset.manifest["proposals"]["max"] == max(num_boxes)
    assert dataset.manifest["proposals"]["share_below_4"] == pytest.approx(sum(n < 4 for n in num_boxes) / 19, abs=1e-4)
    (line,) = (out / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "deep/er/10.jpg"
    assert "19 records" in summary and "rejected: 1 (1 damaged" in summary and f"--config.data.train={out}" in summary


def test_nothing_in_the_data_set_names_this_machine(photo_folder, prepared):
    named = [name for name, data in contents(prepared[0]).items() if str(photo_folder).encode() in data]
    assert named == []


def test_a_rerun_after_an_interruption_redoes_only_unfinished_shards(photo_folder, prepared, tmp_path, capsys):
    plan = shards.plan_shards(tmp_path, sources.find_photos(photo_folder), {}, SETTINGS)
    for spec in (plan[0], plan[2]):
        shards.process_shard(spec, lambda: None)
    leftover = tmp_path / f"{plan[1].path.name}.{'0' * 32}.tmp"
    leftover.write_bytes(b"half a shard")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("photos-*-of-*") if path != leftover}
    prepare.prepare(request_for(photo_folder, tmp_path))
    assert "2 of 3 shards are done" in capsys.readouterr().out
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in before} == before
    assert contents(tmp_path) == contents(prepared[0])


def test_a_finished_data_set_is_left_alone_and_mended_where_a_shard_is_missing(photo_folder, prepared):
    out, _ = prepared
    before = contents(out)
    assert "already done: 19 records" in prepare.prepare(request_for(photo_folder, out))
    (out / "photos-00001-of-00003.tfrecord").unlink()
    assert "19 records" in prepare.prepare(request_for(photo_folder, out))
    assert contents(out) == before


def test_another_request_does_not_overwrite_a_finished_data_set(photo_folder, prepared, tmp_path):
    out, _ = prepared
    with pytest.raises(UserError, match=r"min_side=16, asked for is 17.*another --out"):
        prepare.prepare(request_for(photo_folder, out, settings=SETTINGS._replace(min_side=17)))
    paint(0).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"photos \(num=20, asked for is 1\)"):
        prepare.prepare(request_for(tmp_path, out))
    (tmp_path / "photos-00000-of-00099.json").write_text("{}")
    with pytest.raises(UserError, match="unfinished run over another number of photos"):
        prepare.prepare(request_for(photo_folder, tmp_path))


def test_a_folder_of_damaged_photos_gives_no_data_set(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"none of the 1 photos.*a.jpg': not an image"):
        prepare.prepare(request_for(tmp_path, tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_out_that_is_a_file_is_named(photo_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out=.*file cannot be used"):
        prepare.prepare(request_for(photo_folder, tmp_path / "file"))


@pytest.fixture
def copied(prepared, tmp_path):
    """A copy of the prepared data set, to be damaged."""
    for name, data in contents(prepared[0]).items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_check_passes_a_good_data_set(copied):
    manifest, problems = check.check_dataset(copied, num_workers=1)
    assert problems == [] and manifest["num_records"] == 19


def test_check_finds_a_flipped_bit_and_says_where(copied):
    path = copied / "photos-00001-of-00003.tfrecord"
    offsets = json.loads(path.with_suffix(".json").read_text())["offsets"]
    data = bytearray(path.read_bytes())
    data[offsets[3] + 500] ^= 1
    path.write_bytes(data)
    _, problems = check.check_dataset(copied, num_workers=1)
    assert len(problems) == 2 and all(path.name in problem for problem in problems)
    assert "sha256" in problems[0] and "record 3 does not read" in problems[1]


def test_check_goes_on_after_a_missing_shard_and_a_lost_line(copied):
    (copied / "photos-00000-of-00003.tfrecord").unlink()
    (copied / "photos-00002-of-00003.json").write_text("{")
    (copied / "rejected.jsonl").write_text("")
    _, problems = check.check_dataset(copied, num_workers=1)
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
def test_check_says_what_is_wrong_with_a_record(tmp_path, changes, words):
    paint(0).save(tmp_path / "a.jpg")
    record = shards.make_record(sources.find_photos(tmp_path)[0], None, SETTINGS)
    assert check.record_problems(records.serialize(record)) == []
    (problem,) = check.record_problems(records.serialize(record._replace(**changes)))
    assert words in problem and "a.jpg" in problem


def test_check_says_that_bytes_are_no_record():
    assert check.record_problems(b"\xff\xff") == ["is not a record of a photo"]
