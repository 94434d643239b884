"""One shard: its records, its sidecar, and what is left when the work is interrupted."""

import hashlib
import json

import numpy as np
import pytest

from data_prep import shards
from data_prep.annotations import Annotations
from tests.data_prep.painted import paint
from univip_jax.data import records
from univip_jax.data.photos import sources
from univip_jax.data.photos.decode import Rejected

SETTINGS = shards.Settings("selective_search", 400, 16, 20)


def plan(photo_folder, out, settings=SETTINGS, annotations=None):
    return shards.plan_shards(out, sources.find_photos(photo_folder), annotations or {}, settings)


def photo_file(tmp_path, seed=0, **size):
    paint(seed, **size).save(tmp_path / "a.jpg")
    return sources.find_photos(tmp_path)[0]


def ignore():
    pass


@pytest.mark.parametrize(
    ("num_photos", "sizes"),
    [(1, [1]), (20, [8, 8, 4]), (160, [10] * 16), (600, [38] * 15 + [30]), (5000, [256] * 19 + [136])],
)
def test_plan_shards_depends_on_the_number_of_photos_alone(tmp_path, num_photos, sizes):
    found = [sources.PhotoFile(f"{i}.jpg", "", 1) for i in range(num_photos)]
    specs = shards.plan_shards(tmp_path, found, {}, SETTINGS)
    assert [len(spec.photos) for spec in specs] == sizes
    assert specs[-1].path.name == f"photos-{len(sizes) - 1:05d}-of-{len(sizes):05d}.tfrecord"
    assert [photo for spec in specs for photo in spec.photos] == found


def test_sidecar_describes_its_shard(photo_folder, tmp_path):
    spec = plan(photo_folder, tmp_path)[1]
    calls = []
    sidecar = shards.process_shard(spec, lambda: calls.append(1))
    contents = spec.path.read_bytes()
    assert len(calls) == 8
    assert sidecar == json.loads(spec.path.with_suffix(".json").read_text())
    assert sidecar["bytes"] == len(contents) and sidecar["sha256"] == hashlib.sha256(contents).hexdigest()
    assert [entry["id"] for entry in sidecar["rejected"]] == ["deep/er/10.jpg"]
    assert sidecar["rejected"][0]["reason"].startswith("damaged")
    assert sidecar["num_records"] == len(sidecar["offsets"]) == len(sidecar["verdict"]["num_boxes"]) == 7
    shard = records.Shard(spec.path, 7, np.array(sidecar["offsets"]), {})
    parsed = [records.parse(one) for one in records.read_shard(shard)]
    assert [one["id"].numpy().decode() for one in parsed] == [
        photo.image_id for photo in spec.photos if photo.image_id != "deep/er/10.jpg"
    ]
    assert [len(one["proposals"]) for one in parsed] == sidecar["verdict"]["num_boxes"]
    assert all(2 <= number <= 20 for number in sidecar["verdict"]["num_boxes"])


def test_interrupted_shard_leaves_no_files(photo_folder, tmp_path):
    spec = plan(photo_folder, tmp_path)[0]
    calls = iter(range(3))

    def interrupt():
        if next(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.process_shard(spec, interrupt)
    assert list(tmp_path.iterdir()) == []
    assert shards.process_shard(spec, ignore)["num_records"] == 8


def test_finished_shard_is_redone_only_for_another_request(photo_folder, tmp_path):
    spec = plan(photo_folder, tmp_path)[2]
    sidecar = shards.process_shard(spec, ignore)
    assert shards.process_shard(spec, lambda: pytest.fail("done again")) == sidecar
    assert shards.finished(spec._replace(settings=SETTINGS._replace(min_side=17))) is None
    assert shards.finished(spec._replace(photos=spec.photos[1:])) is None
    spec.path.write_bytes(spec.path.read_bytes()[:-1])
    assert shards.finished(spec) is None


def test_shard_without_a_good_photo_is_empty_and_valid(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    (spec,) = plan(tmp_path, tmp_path)
    sidecar = shards.process_shard(spec, ignore)
    assert (sidecar["num_records"], sidecar["bytes"], sidecar["offsets"]) == (0, 0, [])
    assert shards.finished(spec) == sidecar


def test_proposals_are_fractions_of_the_photo_with_the_smallest_side(tmp_path):
    record, *_ = shards.make_record(photo_file(tmp_path), None, SETTINGS)
    assert (record.height, record.width) == (96, 120)
    assert record.proposals.dtype == np.float32 and len(record.proposals) >= 2
    assert record.proposals.min() >= 0 and record.proposals.max() <= 1
    sides = (record.proposals[:, 2:] - record.proposals[:, :2]) * [96, 120]
    assert sides.min() >= 16 - 1e-3
    assert record.objects.shape == (0, 4) and record.labels.shape == (0,)


def test_annotated_boxes_are_stored_and_can_be_the_proposals(tmp_path):
    annotations = Annotations(
        np.array([[12.0, 24.0, 60.0, 48.0], [200.0, 10.0, 5.0, 5.0]]), np.array([3, 4]), height=96, width=120
    )
    record, *_ = shards.make_record(photo_file(tmp_path), annotations, SETTINGS._replace(proposals="annotated"))
    np.testing.assert_allclose(record.objects, [[0.25, 0.1, 0.75, 0.6]], rtol=1e-6)  # the other is outside
    np.testing.assert_array_equal(record.proposals, record.objects)
    assert record.labels.tolist() == [3]


def test_annotations_of_a_larger_copy_fit_and_of_a_turned_one_do_not(tmp_path):
    photo = photo_file(tmp_path)
    settings = SETTINGS._replace(proposals="none")
    boxes_xywh_px, labels = np.array([[24.0, 48.0, 120.0, 96.0]]), np.array([3])
    record, *_ = shards.make_record(photo, Annotations(boxes_xywh_px, labels, 192, 240), settings)
    np.testing.assert_allclose(record.objects, [[0.25, 0.1, 0.75, 0.6]], rtol=1e-6)
    assert record.proposals.shape == (0, 4)
    with pytest.raises(Rejected, match="another size: 96 x 120, photo 120 x 96"):
        shards.make_record(photo, Annotations(boxes_xywh_px, labels, 120, 96), settings)


def test_naive_proposals_depend_on_the_photo_alone(tmp_path):
    settings = SETTINGS._replace(proposals="naive")
    first, again = (shards.make_record(photo_file(tmp_path), None, settings)[0].proposals for _ in range(2))
    other = shards.make_record(photo_file(tmp_path, seed=1), None, settings)[0].proposals
    np.testing.assert_array_equal(first, again)
    assert len(first) >= 4 and not np.array_equal(first[:3], other[:3])


@pytest.mark.parametrize("proposals", ["selective_search", "naive"])
def test_photo_smaller_than_the_smallest_side_has_no_proposals(tmp_path, proposals):
    photo = photo_file(tmp_path, width=200, height=15)
    assert shards.make_record(photo, None, SETTINGS._replace(proposals=proposals))[0].proposals.shape == (0, 4)


def test_spec_hash_of_default_settings_is_that_of_earlier_versions(tmp_path, monkeypatch):
    """Pinned: half-finished data sets of earlier versions resume."""
    monkeypatch.setattr(shards, "library_versions", dict)
    found = sources.PhotoFile("a.jpg", "/x/a.jpg", 5)
    spec = shards.ShardSpec(tmp_path, (found,), {}, shards.Settings("none", 256, 64, 100))
    assert shards.spec_hash(spec) == "89cb634e2603bf28ddf301b43a0e5982ae88ae81835fc2a4837545a2e5bc92ae"
    other = spec._replace(settings=spec.settings._replace(max_megapixels=99))
    assert shards.spec_hash(other) != shards.spec_hash(spec)
    quality = spec._replace(settings=spec.settings._replace(proposals="selective_search", search_mode="quality"))
    assert shards.spec_hash(quality) == "8b0a202af3ad4372c066183f2a787f9a9fb38ea7f2809d1dfd729b6f6f173e67"
    fast = quality._replace(settings=quality.settings._replace(search_mode="fast"))  # the search changed: no mixture
    assert shards.spec_hash(fast) == "0cb4cdad01c5cac7884d4389061c8a5aad450a84fe8443226647261869ba6a73"
