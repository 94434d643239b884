"""Records and data sets on disk: both directions, byte offsets, and every way a data set can be wrong."""

import hashlib
import io
import json
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from univip_jax.common.errors import UserError
from univip_jax.data import records, tfrecord
from univip_jax.data.annotated import InJson
from univip_jax.data.records import Polygons, read_annotations, read_polygons


def encoded(mode="RGB", kind="PNG", size=(7, 5)):
    """A photo of `size` (width, height) as bytes, and its pixels after Pillow has read it back."""
    shape = size[::-1] if mode == "L" else (*size[::-1], 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode=None).save(buffer, kind)
    return buffer.getvalue(), np.asarray(Image.open(buffer).convert("RGB"))


def make_record(name="a/b.png", num_proposals=3, num_objects=2):
    generator = np.random.default_rng(num_proposals)
    return records.Record(
        encoded()[0],
        name,
        5,
        7,
        generator.random([num_proposals, 4], np.float32),
        generator.random([num_objects, 4], np.float32),
        generator.integers(1, 90, num_objects),
    )


def write_dataset(root, counts=(2, 0, 3)):
    """A data set written by hand, shard by shard."""
    entries = []
    for index, count in enumerate(counts):
        path = root / f"photos-{index:05d}-of-{len(counts):05d}.tfrecord"
        made = (make_record(f"{index}/{number}.png", number) for number in range(count))
        offsets = tfrecord.write_shard(path, map(records.serialize, made))
        entry = {"num_records": count, "bytes": path.stat().st_size, "sha256": f"{index:064x}"}
        path.with_suffix(".json").write_text(json.dumps({"version": 1, "offsets": offsets, **entry}))
        entries.append({"name": path.name, **entry})
    manifest = {
        "version": 1,
        "fingerprint": records.fingerprint(entry["sha256"] for entry in entries),
        "num_records": sum(counts),
        "shards": entries,
    }
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


@pytest.mark.parametrize(("num_proposals", "num_objects"), [(3, 2), (0, 0), (100, 1)])
def test_parse_is_the_inverse_of_serialize_in_graph(num_proposals, num_objects):
    record = make_record("ä/b.png", num_proposals, num_objects)
    dataset = tf.data.Dataset.from_tensors(records.serialize(record)).map(records.parse)
    parsed = next(dataset.as_numpy_iterator())
    assert parsed["encoded"] == record.encoded
    assert parsed["id"].decode() == "ä/b.png"
    assert (parsed["height"], parsed["width"]) == (5, 7)
    for key, expected, dtype in [
        ("proposals", record.proposals, np.float32),
        ("objects", record.objects, np.float32),
        ("labels", record.labels, np.int64),
    ]:
        assert parsed[key].dtype == dtype
        np.testing.assert_array_equal(parsed[key], expected)


def test_serialize_gives_equal_bytes_and_the_published_feature_names():
    assert records.serialize(make_record()) == records.serialize(make_record())
    example = tf.train.Example.FromString(records.serialize(make_record()))
    assert sorted(example.features.feature) == [
        "image/encoded", "image/height", "image/id", "image/width", "objects/is_crowd", "objects/label",
        "objects/polygons", "objects/polygons/num_points", "objects/polygons/object", "objects/yxyx", "proposals/yxyx",
    ]  # fmt: skip


def test_crowds_and_polygons_survive_a_round_trip():
    polygons = Polygons(np.float32([[0, 0.5], [1, 0], [0.25, 1], [0.5, 0.5]]), np.array([3, 1]), np.array([1, 1]))
    record = make_record()._replace(is_crowd=np.array([True, False]), polygons=polygons)
    assert records.parse(records.serialize(record))["is_crowd"].numpy().tolist() == [True, False]
    for found, expected in zip(read_polygons(records.serialize(record)), polygons, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_a_json_says_survives_a_round_trip_and_changes_nothing_else():
    in_json = InJson('"a7"', 50, 100, np.float32([12.5, 0.25]), (b"X`0", b""))
    plain = records.serialize(make_record())
    serialized = records.serialize(make_record()._replace(in_json=in_json))
    found = read_annotations(serialized)
    assert (found.json_id.numpy(), int(found.frame_height), int(found.frame_width)) == (b'"a7"', 50, 100)
    assert found.areas.numpy().tolist() == [12.5, 0.25] and found.rle.numpy().tolist() == [b"X`0", b""]
    example = tf.train.Example.FromString(serialized)
    for name in ("image/json_id", "image/frame_height", "image/frame_width", "objects/area", "objects/rle"):
        del example.features.feature[name]
    assert example.SerializeToString(deterministic=True) == plain


def test_record_that_no_json_names_has_the_bytes_of_earlier_versions_and_nothing_of_a_json():
    plain = records.serialize(make_record()._replace(encoded=b"photo", is_crowd=np.array([True, False])))
    assert hashlib.sha256(plain).hexdigest() == "2b9d3b55767ad74e63960a8f4e3e80574a9744457f53c8f1b4e0114bf5dddd2e"
    found = read_annotations(plain)
    assert (found.json_id.numpy(), int(found.frame_height), int(found.frame_width)) == (b"", 0, 0)
    assert len(found.areas) == len(found.rle) == 0


def test_early_record_reads_without_crowds_and_polygons():
    example = tf.train.Example.FromString(records.serialize(make_record()))
    for name in [name for name in example.features.feature if name.startswith(("objects/is_", "objects/polygons"))]:
        del example.features.feature[name]
    earlier = example.SerializeToString()
    parsed = records.parse(earlier)
    assert parsed["is_crowd"].numpy().tolist() == [False, False] and len(parsed["objects"]) == 2
    assert [len(values) for values in read_polygons(earlier)] == [0, 0, 0]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decode_image_gives_pillows_pixels_in_three_channels(mode):
    data, pixels = encoded(mode, "PNG")
    np.testing.assert_array_equal(records.decode_image(data), pixels)
    data, pixels = encoded(mode, "JPEG", (32, 16))
    # Two JPEG decoders may differ by the rounding of colours and chroma interpolation.
    assert records.decode_image(data).shape == (16, 32, 3)
    assert np.abs(np.asarray(records.decode_image(data), int) - pixels).mean() < 3


def test_decode_image_knows_its_channels_in_graph():
    dataset = tf.data.Dataset.from_tensors(encoded()[0]).map(records.decode_image)
    assert dataset.element_spec.shape.as_list() == [None, None, 3]


def test_write_shard_returns_the_offsets_of_records(tmp_path):
    payloads = [b"a" * 10, b"", b"ccc"]
    offsets = tfrecord.write_shard(tmp_path / "x.tfrecord", payloads)
    contents = (tmp_path / "x.tfrecord").read_bytes()
    for offset, payload in zip(offsets, payloads, strict=True):
        (length,) = struct.unpack_from("<Q", contents, offset)  # TFRecord: length, its checksum, payload, checksum
        assert contents[offset + 12 : offset + 12 + length] == payload
    assert offsets[0] == 0 and len(contents) == offsets[-1] + 16 + 3


def test_read_record_reads_by_the_offsets_of_an_opened_data_set(tmp_path):
    shard = records.open_dataset(write_dataset(tmp_path)).shards[2]

    def from_offset(offset):
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=[str(shard.path)], compression_type="", buffer_size=0, byte_offsets=[offset]
        )
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(1)

    found = tf.data.Dataset.from_tensor_slices(shard.offsets[::-1]).flat_map(from_offset).map(records.parse)
    assert [one["id"] for one in found.as_numpy_iterator()] == [b"2/2.png", b"2/1.png", b"2/0.png"]


def test_open_dataset_gives_counts_and_shards(tmp_path):
    dataset = records.open_dataset(str(write_dataset(tmp_path)))
    assert dataset.num_records == 5 and dataset.root == tmp_path
    assert [shard.num_records for shard in dataset.shards] == [2, 0, 3]
    assert all(shard.offsets.dtype == np.int64 for shard in dataset.shards)
    assert dataset.fingerprint == dataset.manifest["fingerprint"]


def damage_manifest(root, **changes):
    manifest = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps(manifest | changes))


SHARD, SIDECAR = "photos-00000-of-00003.tfrecord", "photos-00000-of-00003.json"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "manifest.json").unlink(), ["manifest.json", "unfinished", "python -m data_prep"]),
        (lambda root: (root / "manifest.json").write_text("{"), ["manifest.json", "damaged", "delete it"]),
        (lambda root: (root / "manifest.json").write_text("[]"), ["manifest.json", "damaged"]),
        (lambda root: damage_manifest(root, version=0), ["format version 0", "reads 1", "python -m data_prep"]),
        (lambda root: damage_manifest(root, version=2), ["format version 2", "reads 1"]),
        (lambda root: damage_manifest(root, num_records=6), ["manifest.json", "do not agree"]),
        (lambda root: damage_manifest(root, fingerprint="0"), ["manifest.json", "do not agree"]),
        (lambda root: damage_manifest(root, shards=[{}]), ["manifest.json", "do not agree"]),
        (lambda root: (root / SHARD).unlink(), [SHARD, "is missing"]),
        (lambda root: (root / SHARD).write_bytes(b"x"), [SHARD, "has 1 bytes"]),
        (lambda root: (root / SIDECAR).unlink(), [SIDECAR, "missing"]),
        (lambda root: (root / SIDECAR).write_text("{}"), [SIDECAR, "damaged"]),
        (lambda root: (root / SIDECAR).write_text((root / SIDECAR).read_text().replace("[0, ", "[9999, ")), [SIDECAR]),
    ],
)
def test_open_dataset_names_the_damaged_file_in_one_line(tmp_path, damage, words):
    damage(write_dataset(tmp_path))
    with pytest.raises(UserError) as error:
        records.open_dataset(tmp_path)
    assert all(word in str(error.value) for word in [str(tmp_path), *words])
    assert "\n" not in str(error.value)


def test_open_dataset_names_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        records.open_dataset(tmp_path / "nowhere")


def test_write_shard_names_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*cannot be written"):
        tfrecord.write_shard(tmp_path / "nowhere" / "x.tfrecord", [b"a"])
