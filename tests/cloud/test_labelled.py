"""Labelled photos and weights in buckets: what they are on a disk."""

import hashlib
import json
import time

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cloud.test_photos import upload
from tests.data_prep.painted import paint
from tests.weights.random_weights import variables_of
from univip_jax.common.errors import TransientError, UserError
from univip_jax.common.files import at, sha256_of
from univip_jax.data.labelled.contents import read_contents
from univip_jax.data.labelled.sets import centre_batches, open_labelled, training_batches
from univip_jax.data.labelled.subset import drawn_subset, named_subset
from univip_jax.models.resnet import ResNet
from univip_jax.weights.encoder import load_encoder
from univip_jax.weights.files import read_tensors
from univip_jax.weights.imported import import_weights
from univip_jax.weights.names import to_flat
from univip_jax.weights.pickle_file import write_pkl


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Three classes, photos in them and below, files beside."""
    root = tmp_path_factory.mktemp("classes")
    for number in range(24):
        path = root / ["cat", "döner", "Zebra"][number % 3] / ("deep" if number % 2 else "") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        paint(number, 40, 32).save(path)
    (root / ".x").mkdir()
    (root / ".x" / "a.png").write_bytes(b"x")
    (root / "loose.png").write_bytes(b"x")
    (root / "cat" / "notes.txt").write_text("x")
    return root


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_labelled_folders_equal_those_of_a_disk(classes, bucket, servers, tmp_path, capsys):
    here = open_labelled(str(classes))
    said = capsys.readouterr().err
    upload(classes, bucket)
    faults = getattr(servers, bucket[:2]).faults
    before = faults.num_requests
    there = open_labelled(bucket)
    assert faults.num_requests - before <= 4
    assert capsys.readouterr().err == said.replace(str(classes), bucket) and "1 photos lie in no class" in said
    assert (there.classes, there.fingerprint, there.num_images) == (here.classes, here.fingerprint, here.num_images)
    assert there.name == bucket and there.num_images == 24
    assert_same(centre_batches(there, 16, 5), centre_batches(here, 16, 5))
    one, other = (training_batches(labelled, 16, 6, seed=1, num_epochs=2) for labelled in (there, here))
    assert_same(one, other)
    assert read_contents(there).digests == read_contents(here).digests
    assert read_contents(there).names[0] == f"{bucket}/Zebra/02.png"
    (at(bucket) / "some.txt").write_text("02.png\ncat/00.png\ndöner/04.png\n")
    (tmp_path / "some.txt").write_text("02.png\ncat/00.png\ndöner/04.png\n")
    one, other = named_subset(there, at(bucket) / "some.txt"), named_subset(here, tmp_path / "some.txt")
    assert one.fingerprint == other.fingerprint and one.num_images == 3
    assert_same(centre_batches(one, 16, 5), centre_batches(other, 16, 5))
    assert drawn_subset(there, 50, 0).fingerprint == drawn_subset(here, 50, 0).fingerprint


def test_labelled_photos_that_cannot_be_read_are_named_and_a_network_is_not(classes, gs, servers, monkeypatch):
    labelled = open_labelled(upload(classes, gs))
    (at(gs) / "cat/00.png").write_bytes(b"no photo")
    (at(gs) / "cat/deep/03.png").unlink()
    with pytest.raises(UserError) as refused:
        list(centre_batches(labelled, 16, 5))
    bad = f"{gs}/cat/00.png (not an image), {gs}/cat/deep/03.png (No such file or directory)"
    assert f"2 of the 24 photos of {gs} cannot be read or decoded: {bad}; remove" in str(refused.value)

    async def at_once(_):
        pass

    monkeypatch.setattr("gcsfs.retry.asyncio.sleep", at_once)
    servers.gs.faults.gone_until = time.monotonic() + 60
    with pytest.raises(TransientError, match=f"{gs}/.*png cannot be reached .*: run the same command again$"):
        list(centre_batches(labelled, 16, 5))


def test_labelled_photos_are_read_at_the_same_time(classes, gs, servers):
    labelled = open_labelled(upload(classes, gs))
    seconds = []
    for latency in (0, 0, 0.2):  # the first time, TensorFlow traces
        servers.gs.faults.latency = latency
        began = time.monotonic()
        assert len(list(centre_batches(labelled, 16, 24))) == 1
        seconds.append(time.monotonic() - began)
    assert seconds[2] - seconds[1] < 24 * 0.2 / 3


def test_voc_equals_that_of_a_disk(bucket, tmp_path):
    root = tmp_path / "VOC2007"
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for number, kind in enumerate(["cat", "dog", "cat", "bird"]):
        paint(number, 40, 32).save(root / f"JPEGImages/{number:06d}.jpg")
        objects = f"<object><name>{kind}</name><difficult>{number % 2}</difficult></object>"
        (root / f"Annotations/{number:06d}.xml").write_text(f"<annotation>{objects}</annotation>")
    (root / "ImageSets/Main/test.txt").write_text("".join(f"{number:06d}\n" for number in range(4)))
    here = open_labelled(f"{root}:test")
    there = open_labelled(f"{upload(root, f'{bucket}/VOC2007')}:test")
    assert (there.classes, there.fingerprint) == (here.classes, here.fingerprint)
    assert there.classes == ("bird", "cat", "dog") and there.name == f"{bucket}/VOC2007:test"
    assert_same(centre_batches(there, 16, 5), centre_batches(here, 16, 5))
    (at(bucket) / "VOC2007/Annotations/000001.xml").unlink()
    (at(bucket) / "VOC2007/JPEGImages/000002.jpg").unlink()
    with pytest.raises(UserError) as refused:
        open_labelled(f"{bucket}/VOC2007:test")
    assert f"2 of the 4 photos of {bucket}/VOC2007:test cannot be used: 000001 ([Errno 2] No such" in str(refused.value)
    assert f"000002 ({bucket}/VOC2007/JPEGImages/000002.jpg is missing)" in str(refused.value)


def test_a_run_of_imported_weights_may_be_in_a_bucket(bucket, tmp_path):
    variables = variables_of(ResNet("resnet18", width=0.125))
    save_file({name: np.asarray(value) for name, value in to_flat(variables).items()}, tmp_path / "w.safetensors")
    upload(tmp_path, bucket)
    said = import_weights(at(bucket) / "w.safetensors", at(bucket) / "run")
    assert said.startswith("resnet18 of width 0.125, 0.")
    encoder = load_encoder(f"{bucket}/run")
    assert encoder.source == f"{bucket}/run" and encoder.image_size == 224
    jax.tree.map(np.testing.assert_array_equal, encoder.variables, variables)
    config = json.loads((at(bucket) / "run" / "config.json").read_text())
    digest = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    assert config["imported"] == {"file": "w.safetensors", "sha256": digest, "metadata": {}}
    with pytest.raises(UserError, match=f"--workdir={bucket}/run exists; choose another folder"):
        import_weights(at(bucket) / "w.safetensors", at(bucket) / "run")


@pytest.mark.parametrize("kind", ["safetensors", "pkl"])
def test_weights_are_read_from_a_bucket(bucket, tmp_path, kind):
    path = tmp_path / f"weights.{kind}"
    values = {"layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "layer.bias": np.ones(2, np.float32)}
    if kind == "safetensors":
        save_file(values, path, {"licence": "MIT"})
    else:
        write_pkl(path, values)
    upload(tmp_path, bucket)
    there = at(bucket) / path.name
    (tensors, metadata), (_, wanted) = read_tensors(there, whole=True), read_tensors(path, whole=True)
    assert metadata == wanted and sha256_of(there) == sha256_of(path) and tensors.keys() == values.keys()
    for name, value in values.items():
        assert tensors[name].shape == value.shape
        np.testing.assert_array_equal(tensors[name].read(), value)
    there.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=f"^{there} is .*(readable|damaged)"):
        read_tensors(there)
    with pytest.raises(UserError, match=f"^{bucket}/none does not exist"):
        read_tensors(at(bucket) / "none")
