"""data_prep in buckets: the bytes of a disk from every kind of source, whatever is killed and whatever fails."""

import json
import multiprocessing
import random
import tarfile
import time
import zipfile

import pytest

from data_prep import check, shards, writing
from data_prep.inputs import Request
from data_prep.prepare import prepare
from data_prep.record import Settings
from tests.cloud.test_photos import upload
from tests.data_prep.command import exit_code
from tests.data_prep.painted import paint
from univip_jax.common import objects
from univip_jax.common.errors import TransientError, UserError
from univip_jax.common.files import at, temporary
from univip_jax.common.objects import entries, read_all
from univip_jax.data import records

SETTINGS = Settings("selective_search", 64, 16, 20)
NUM_PHOTOS = 20  # three shards of 8, 8 and 4


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder of photos, one of them damaged, as a zip and a tar too; a json with their objects, and boxes."""
    root = tmp_path_factory.mktemp("source")
    (root / "photos" / "deep").mkdir(parents=True)
    for seed in range(NUM_PHOTOS):
        paint(seed).save(root / "photos" / ("deep" if seed % 3 else "") / f"{seed:02d}.jpg", quality=90)
    damaged = root / "photos" / "deep" / "10.jpg"
    damaged.write_bytes(damaged.read_bytes()[:900])
    (root / "photos" / ".x.jpg").write_bytes(b"x")
    names = sorted(path.relative_to(root / "photos").as_posix() for path in (root / "photos").rglob("*.jpg"))
    with zipfile.ZipFile(root / "photos.zip", "w") as made, tarfile.open(root / "photos.tar", "w") as tar:
        for name in names:
            made.write(root / "photos" / name, name)
            tar.add(root / "photos" / name, name)
    images = [{"id": n, "file_name": name, "height": 96, "width": 120} for n, name in enumerate(names)]
    objects = [{"id": n, "image_id": n, "category_id": 1, "bbox": [10, 10, 40 + n, 30]} for n in range(len(names))]
    given = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "thing"}]}
    (root / "objects.json").write_text(json.dumps(given))
    boxes = [{"image_id": n, "bbox": [5, 5, 60, 50 + n], "score": 0.5} for n in range(len(names))]
    (root / "boxes.json").write_text(json.dumps(boxes))
    return root


def contents(folder):
    """What a folder holds, of a disk or a bucket, by name."""
    if "://" not in str(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}
    names = sorted(entries(folder))
    return dict(zip(names, read_all([folder / name for name in names]), strict=True))


def request(out, *images, **how):
    return Request(at(out), SETTINGS, list(images), **({"num_workers": 1} | how))


@pytest.fixture(scope="module")
def on_disk(source, tmp_path_factory):
    """The data set that all others must equal."""
    out = tmp_path_factory.mktemp("disk") / "out"
    prepare(request(out, source / "photos"))
    assert len(contents(out)) == 3 * 2 + 3 and b'"deep/10.jpg"' in (out / "rejected.jsonl").read_bytes()
    return contents(out)


@pytest.mark.parametrize("kind", ["photos", "photos.zip", "photos.tar"])
def test_a_bucket_has_the_bytes_of_a_disk(source, on_disk, bucket, servers, kind):
    upload(source, bucket)
    said = prepare(request(f"{bucket}/out", f"{bucket}/{kind}"))
    assert contents(at(f"{bucket}/out")) == on_disk
    assert f"19 records in {bucket}/out\n" in said and f"plots and photos: {bucket}/out/proposals.html" in said
    assert said.endswith(f"--config.data.train={bucket}/out --workdir=RUN_DIR")
    faults = getattr(servers, bucket[:2]).faults
    faults.num_requests = 0
    assert prepare(request(f"{bucket}/out", source / kind)).startswith(f"{bucket}/out is already done: 19 records")
    assert faults.num_requests < 30  # a listing, the sidecars, and whether the four other files are there


def test_check_passes_and_finds_a_flipped_byte(source, on_disk, bucket, capsys):
    out = at(f"{bucket}/out")
    out.fs.pipe({f"{out}/{name}": data for name, data in on_disk.items()})
    assert exit_code(f"--check={out}", "--num_workers=1") == 0
    assert f"{out} is whole: 19 records in 3 shards" in capsys.readouterr().out
    shard = out / "photos-00001-of-00003.tfrecord"
    damaged = bytearray(on_disk[shard.name])
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(bytes(damaged))
    assert exit_code(f"--check={out}", "--num_workers=1") == 1
    *problems, last = capsys.readouterr().err.strip().splitlines()
    assert f"{shard}: its sha256 is not the manifest's, bytes have changed" in problems
    assert any(line.startswith(f"{shard}: record ") for line in problems) and "delete the files named above" in last
    shard.unlink()
    assert exit_code(f"--check={out}", "--num_workers=1") == 1
    assert f"shard {shard} is missing" in capsys.readouterr().err
    prepare(request(out, source / "photos"))  # mends it
    assert contents(out) == on_disk


def test_an_unfinished_data_set_is_told_with_its_progress(on_disk, bucket, capsys):
    out = at(f"{bucket}/out")
    out.fs.pipe({f"{out}/{name}": on_disk[name] for name in sorted(on_disk) if name.startswith("photos-0000")})
    (out / "photos-00001-of-00003.json").unlink()
    assert exit_code(f"--check={out}", "--num_workers=1") == 1
    assert f"{out} is unfinished: 2 of 3 shards are done" in capsys.readouterr().err
    assert "proposals.html" in entries(out)


def test_a_job_array_and_a_pool_write_the_bytes_of_one_process(source, on_disk, bucket):
    upload(source / "photos", f"{bucket}/photos")
    for index in (1, 0):
        said = prepare(request(f"{bucket}/out", f"{bucket}/photos", task_index=index, num_tasks=2))
        assert ("task 1 of 2 is done; 2 of 3 shards" in said) == (index == 1)
    assert contents(at(f"{bucket}/out")) == on_disk
    if bucket.startswith("gs"):  # workers get the addresses by pickle
        prepare(request(f"{bucket}/pool", f"{bucket}/photos", num_workers=2))
        assert contents(at(f"{bucket}/pool")) == on_disk


def test_annotations_and_imported_boxes_come_from_a_bucket(source, bucket, tmp_path):
    upload(source, bucket)
    given = {"annotations": ["objects.json"], "proposals_file": ["boxes.json"]}
    settings = SETTINGS._replace(proposals="import")
    for out, root in ((tmp_path / "out", source), (at(f"{bucket}/out"), bucket)):
        files = {name: [f"{root}/{path}" for path in paths] for name, paths in given.items()}
        prepare(request(out, f"{root}/photos", **files)._replace(settings=settings))
    here, there = contents(tmp_path / "out"), contents(at(f"{bucket}/out"))
    assert there == here and json.loads(here["manifest.json"])["categories"] == [{"id": 1, "name": "thing"}]
    with pytest.raises(UserError, match=f"--annotations={bucket}/none.json cannot be read .*No such file"):
        prepare(request(f"{bucket}/other", f"{bucket}/photos", annotations=[f"{bucket}/none.json"]))


def test_finished_shards_are_found_by_requests_at_the_same_time(gs, servers):
    plan = [shards.ShardSpec(at(gs) / f"photos-{n:05d}-of-00040.tfrecord", (), {}, SETTINGS) for n in range(40)]
    sidecar = {"bytes": 3, "sha256": "", "num_records": 0, "offsets": [], shards.STATS: {}, "rejected": []}
    made = {spec.path: json.dumps(sidecar | {"spec_hash": shards.spec_hash(spec)}).encode() for spec in plan}
    at(gs).fs.pipe({str(path.with_suffix(".json")): data for path, data in made.items()})
    # Without a shard, with a longer one, and of another spec.
    at(gs).fs.pipe({str(spec.path): b"abc" if n != 1 else b"abcd" for n, spec in enumerate(plan) if n})
    plan[2].path.with_suffix(".json").write_bytes(made[plan[3].path].replace(b"spec_hash", b"other"))
    servers.gs.faults.latency, servers.gs.faults.num_requests = 0.1, 0
    began = time.monotonic()
    found = shards.all_finished(plan)
    assert time.monotonic() - began < 40 * 0.1 / 2 and servers.gs.faults.num_requests <= 40 + 2
    assert [one is None for one in found] == [True] * 3 + [False] * 37


def prepare_in_a_child(out, images):
    prepare(request(out, images))


def test_killed_preparations_end_with_the_same_bytes(source, on_disk, gs, servers):
    upload(source / "photos", f"{gs}/photos")
    out, moments, numbers = at(f"{gs}/out"), random.Random(0), set()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.cloud.test_prep", "gcsfs", "upath", "matplotlib.figure"])
    for _ in range(10):
        servers.gs.faults.latency, servers.gs.faults.num_requests = 0.01, 0
        child = context.Process(target=prepare_in_a_child, args=(out, f"{gs}/photos"))
        child.start()
        last = moments.randint(6, 34)  # requests: it begins by 10, and a shard takes 15
        while child.is_alive() and servers.gs.faults.num_requests < last:
            time.sleep(0.001)
        child.kill()
        child.join()
        servers.gs.reset()
        there = contents(out)
        assert there.items() <= on_disk.items()  # each object is whole, or not there
        assert {name.replace(".json", ".tfrecord") for name in there if name.startswith("photos-")} <= there.keys()
        numbers.add(len(there))
    assert len(numbers) > 2 and max(numbers) < len(on_disk)  # in several shards, and before the end
    prepare(request(out, f"{gs}/photos"))
    assert contents(out) == on_disk
    assert check.check_dataset(out, num_workers=1).problems == []


def test_failing_requests_change_nothing(source, on_disk, bucket, servers):
    upload(source / "photos", f"{bucket}/photos")
    getattr(servers, bucket[:2]).faults.failing = 0.1
    prepare(request(f"{bucket}/out", f"{bucket}/photos"))
    getattr(servers, bucket[:2]).reset()
    assert contents(at(f"{bucket}/out")) == on_disk


def test_a_server_that_is_gone_for_20_s_is_waited_for(source, on_disk, gs, servers):
    upload(source / "photos", f"{gs}/photos")
    servers.gs.faults.gone_until = time.monotonic() + 20
    prepare(request(f"{gs}/out", f"{gs}/photos"))
    assert contents(at(f"{gs}/out")) == on_disk


def test_a_network_that_is_gone_rejects_no_photo(source, on_disk, gs, servers, monkeypatch):
    upload(source / "photos", f"{gs}/photos")
    read, asked = objects.read, []

    def gone(path, *part):
        asked.append(path)
        if len(asked) > 12:
            raise TransientError(f"{path} cannot be reached")
        return read(path, *part)

    with monkeypatch.context() as patch, pytest.raises(TransientError, match="cannot be reached"):
        patch.setattr(objects, "read", gone)
        prepare(request(f"{gs}/out", f"{gs}/photos"))
    there = contents(at(f"{gs}/out"))
    assert len(there) == 2 and there.items() <= on_disk.items()  # the first shard and its sidecar
    prepare(request(f"{gs}/out", f"{gs}/photos"))
    assert contents(at(f"{gs}/out")) == on_disk


def test_leftovers_of_shards_are_removed_from_this_machine(gs, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    name = f"photos-00000-of-00003.tfrecord.{'0' * 32}.tmp"
    for path in (name, f"others.{'0' * 32}.tmp"):
        (tmp_path / path).write_bytes(b"x")
    with temporary(at(gs) / "photos-00001-of-00003.tfrecord") as living:
        writing.remove_leftovers(at(gs))
        assert sorted(tmp_path.iterdir()) == sorted([tmp_path / f"others.{'0' * 32}.tmp", living])


def test_what_a_user_can_mend_is_one_line(source, bucket, servers, capsys):
    upload(source / "photos", f"{bucket}/photos")
    scheme = bucket[:2]
    for flags in (
        (f"--images={scheme}://wrong/x", f"--out={bucket}/out"),
        (f"--images={bucket}/photos", f"--out={scheme}://wrong/x"),
    ):
        assert exit_code(*flags, "--num_workers=1") == 1
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert f"data_prep: {scheme}://wrong" in line and "there is no such bucket" in line
    assert exit_code(f"--check={scheme}://wrong/x") == 1 and "no such bucket" in capsys.readouterr().err
    other = at(f"{bucket}/other/photos-00000-of-00009.json")
    other.write_bytes(b"{}")
    assert exit_code(f"--images={bucket}/photos", f"--out={bucket}/other") == 1
    assert f"--out={bucket}/other holds photos-00000-of-00009.json of an unfinished run" in capsys.readouterr().err
    getattr(servers, scheme).faults.forbidden = True
    assert exit_code(f"--images={source / 'photos'}", f"--out={bucket}/out", "--num_workers=1") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"data_prep: {scheme}://bucket" in line and "is closed to you" in line


def test_a_data_set_of_a_bucket_is_opened(on_disk, bucket):
    out = at(f"{bucket}/out")
    out.fs.pipe({f"{out}/{name}": data for name, data in on_disk.items()})
    dataset = records.open_dataset(out)
    assert dataset.num_records == 19 and dataset.manifest == json.loads(on_disk["manifest.json"])
