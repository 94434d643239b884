"""The whole evaluation on two classes that differ in brightness: reads, interruptions and refusals."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import semi as config_of
from univip_jax.common.errors import UserError
from univip_jax.evaluate import sgd
from univip_jax.evaluate.finetune import Finetuning
from univip_jax.evaluate.semi import evaluate

DIVERGES = 1e30


def small_config(pretrained, train, test):
    """configs/semi.py with two points, one of which diverges; a batch of 8 takes 1/32 of a rate."""
    config = config_of.get_config("labels=10")
    config.pretrained = str(pretrained)
    config.data.train, config.data.test, config.data.subset = str(train), str(test), "all"
    config.image_size, config.batch_size, config.num_epochs, config.milestones = 16, 8, 4, (3,)
    config.lr, config.head_multiplier = (DIVERGES, 3.2), (1.0,)
    config.model.backbone, config.model.width, config.model.stem = "resnet10", 0.125, "small"
    return config


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """30 photos of each class that training does not see."""
    root, rng = tmp_path_factory.mktemp("test"), np.random.default_rng(1)
    for name, low in (("dark", 0), ("light", 150)):
        (root / name).mkdir()
        for index in range(30):
            pixels = rng.integers(low, low + 100, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def finished(run, labelled, unseen, tmp_path_factory):
    """The folder of an evaluation that was not interrupted, and the names of the sets that it was scored on."""
    folder, scored, score = tmp_path_factory.mktemp("finished"), [], Finetuning.score
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Finetuning, "score", lambda *a: scored.append((a[2].name, a[2].num_images)) or score(*a))
        evaluate(small_config(run, labelled, unseen), folder)
    return folder, scored


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_semi_separates_separable_classes_and_records_how(finished, run, labelled, unseen):
    found = results(finished[0])
    assert found["top1"] > 99 and found["top5"] == 100
    assert found["grid"][0] == {"lr": DIVERGES, "head_multiplier": 1.0, "held_out": None}
    assert found["grid"][1].pop("held_out") >= 80  # of five photos
    assert found["grid"][1] == found["chosen"] == {"lr": 3.2, "head_multiplier": 1.0}
    assert "top-1 on 5 photos held out" in found["chosen_by"]
    expected = {"protocol": "semi_orl", "labels": 10, "images_used": 24, "pretrained": str(run), "step": 4, "seed": 0}
    assert {name: found[name] for name in expected} == expected
    assert (found["train"]["name"], found["test"]["name"]) == (str(labelled), str(unseen))
    assert (found["train"]["images"], found["test"]["images"], found["classes"]) == (24, 60, 2)


def test_semi_reads_the_test_set_once_at_the_end(finished, unseen):
    (held_out, number), last = finished[1]
    assert "held out" in held_out and number == 5  # the point that diverged is not scored
    assert last == (str(unseen), 60)


def digests(folder):
    """Of the reported network after the last of four epochs."""
    return json.loads((folder / "final/checkpoints/4/meta/metadata").read_text())["digests"]


def test_semi_resumes_with_the_same_bits(finished, run, labelled, unseen, tmp_path, monkeypatch):
    """Stopped in the second point of the grid after three epochs, and again in the reported network."""
    save, saved = sgd.Checkpoints.save, []

    def interrupted(checkpoints, epoch, state, meta):
        save(checkpoints, epoch, state, meta)
        saved.append((checkpoints.folder.parent.name, epoch))
        if len(saved) in (3, 6):
            checkpoints.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(sgd.Checkpoints, "save", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            evaluate(small_config(run, labelled, unseen), tmp_path)
    evaluate(small_config(run, labelled, unseen), tmp_path)
    assert saved == [(name, epoch) for name in ("lr=3.2,head=1", "final") for epoch in (1, 2, 3, 4)]
    assert results(tmp_path) == results(finished[0])
    assert digests(tmp_path) == digests(finished[0]) and len(digests(tmp_path)) > 40
    assert not list((tmp_path / "grid").glob("*/checkpoints"))


def test_semi_does_not_repeat_finished_fine_tunings(finished, run, labelled, unseen, tmp_path, monkeypatch):
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    (folder / "results.json").unlink()
    monkeypatch.setattr(Finetuning, "score", None)
    monkeypatch.setattr(Finetuning, "fit", None)
    evaluate(small_config(run, labelled, unseen), folder)
    assert results(folder) == results(finished[0])


def test_semi_refuses_another_config_or_subset_by_name(finished, run, labelled, unseen, tmp_path):
    config = small_config(run, labelled, unseen)
    config.lr = (0.1,)
    with pytest.raises(UserError, match=r"lr was \[1e\+30, 3\.2\] and is now \[0\.1\].*give the old value$"):
        evaluate(config, finished[0])
    with pytest.raises(UserError, match=r"step was 4 and is now 0"):
        evaluate(small_config("random", labelled, unseen), finished[0])
    more = shutil.copytree(labelled, tmp_path / "more")
    shutil.copy(more / "dark" / "0.png", more / "dark" / "another.png")
    with pytest.raises(UserError, match=r"train was '.*' and is now '.*'; choose another --workdir"):
        evaluate(small_config(run, more, unseen), finished[0])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data.subset", "", "data.subset is not set: --config.data.subset=drawn takes 10 % of each class"),
        ("batch_size", 32, "batch_size=32 is more than the 19 photos of .* held out"),
        ("held_out", 0.0, "0 photos cannot be held out of the 24"),
        ("lr", (), r"lr=\(\) and head_multiplier=\(1.0,\) must each hold a number"),
    ],
)
def test_semi_refuses_impossible_settings_and_writes_nothing(labelled, unseen, tmp_path, field, value, message):
    config = small_config("random", labelled, unseen)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_semi_on_a_tfds_set_with_one_point(tmp_path):
    """Mocked: random photos of cats and dogs; where there is a single point, no photo is held out."""
    builder = tfds.builder("cats_vs_dogs", data_dir=tmp_path / "tfds")
    place = {"data_dir": builder.data_dir, "dataset_name": builder.name, "filetype_suffix": "tfrecord"}
    template = tfds.core.ShardedFileTemplate(split="train", **place)
    split = tfds.core.SplitInfo(name="train", shard_lengths=[9], num_bytes=1, filename_template=template)
    builder.info.set_splits(tfds.core.SplitDict([split]))
    os.makedirs(builder.data_dir)
    builder.info.write_to_directory(builder.data_dir)
    config = small_config("random", "cats_vs_dogs:train", "cats_vs_dogs:train")
    config.lr, config.num_epochs = (0.1,), 1
    with tfds.testing.mock_data(num_examples=9, data_dir=str(tmp_path / "tfds")):
        evaluate(config, tmp_path / "run")
    found = results(tmp_path / "run")
    assert (found["classes"], found["images_used"], found["chosen_by"]) == (2, 9, "the only point")
    assert found["grid"] == [{**found["chosen"], "held_out": None}]
    assert found["top1"] in {100 * right / 9 for right in range(10)}
