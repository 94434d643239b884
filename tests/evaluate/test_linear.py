"""Linear probes from photos to results.json: the protocols, grids, the choice, and going on after an interruption."""

import json
from functools import partial

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import linear
from tests.small import small_config
from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import hold_out, open_labelled
from univip_jax.evaluate import features, logistic, sgd
from univip_jax.evaluate.heads import ProbeSpec
from univip_jax.evaluate.linear import evaluate, number_to_hold_out, train_heads
from univip_jax.evaluate.logistic import fit_logistic
from univip_jax.evaluate.scores import accuracy
from univip_jax.evaluate.task import spec_of
from univip_jax.types import Features
from univip_jax.weights.encoder import open_encoder

RATE = 32  # times the protocols' rates: they are for 256 photos, a batch of the tests has 8


def small_probe(protocol: str, labelled):
    """The shipped config on painted photos and a network for them, with the rate that it has at 256, for 28 epochs."""
    config = linear.get_config(f"protocol={protocol}")
    config.pretrained, config.image_size, config.batch_size = "random", 32, 8
    config.data.train = config.data.test = str(labelled)
    config.model = small_config(labelled).model
    if protocol != "logistic":
        config.lr = tuple(RATE * lr for lr in config.lr)
        config.num_epochs, config.checkpoint_every_epochs = 28, 28
    return config


def results_of(workdir) -> dict:
    return json.loads((workdir / "results.json").read_text())


@pytest.fixture
def reads(monkeypatch):
    """The names of the sets in the order in which they are read."""
    names = []

    def read(original, *arguments, **options):
        names.append(next(x.name for x in arguments if hasattr(x, "fingerprint")))
        return original(*arguments, **options)

    for module, reader in ((sgd, "centre_batches"), (sgd, "training_batches"), (features, "view_batches")):
        monkeypatch.setattr(module, reader, partial(read, getattr(module, reader)))
    return names


@pytest.mark.parametrize(("protocol", "pretrained"), [("linear_orl", "random"), ("linear_moco", "run")])
def test_linear_separates_separable_classes(run, labelled, tmp_path, protocol, pretrained):
    """By the shipped rates; photos of the training set, so that nothing but training is asked for."""
    config = small_probe(protocol, labelled)
    config.pretrained = "random" if pretrained == "random" else str(run)
    evaluate(config, tmp_path)
    results = results_of(tmp_path)
    assert (results["pretrained"], results["step"]) == (config.pretrained, 0 if pretrained == "random" else 4)
    assert results["top1"] > 99
    assert results["top5"] == 100
    assert (results["protocol"], results["epochs"], results["classes"]) == (protocol, config.num_epochs, 2)
    assert results["chosen"] == results["grid"][0] and len(results["grid"]) == 1
    assert (results["chosen"]["held_out"], results["chosen_by"]) == (None, "the only point of the grid")
    assert results["train"] == open_labelled(str(labelled)).describe()
    assert [*results["heads"]] == [*config.pooling]
    assert results["heads"][config.pooling[0]] == {"top1": results["top1"], "top5": 100}
    assert all(head["top1"] > 99 for head in results["heads"].values())


def test_linear_byol_chooses_on_held_out_photos_and_reads_the_test_set_once(labelled, tmp_path, reads, capsys):
    """And a finished evaluation reads nothing, is not done with other settings, and says which differ."""
    config = small_probe("linear_byol", labelled)
    config.num_epochs = 80  # one step each, of the photos that are not held out
    (tmp_path / "test").symlink_to(labelled)
    config.data.test = str(tmp_path / "test")
    evaluate(config, tmp_path)
    results = results_of(tmp_path)
    assert results["top1"] > 99
    rest, part = hold_out(open_labelled(str(labelled)), 10, seed=0)
    assert reads == [rest.name, part.name, config.data.train, config.data.test]
    assert [point["lr"] for point in results["grid"]] == list(config.lr)
    scores = [point["held_out"] for point in results["grid"]]
    assert results["chosen"] == results["grid"][int(np.argmax(scores))]
    assert set(scores) <= {10.0 * right for right in range(11)} and max(scores) > 90
    assert "10 training photos that were held out, then trained anew on all" in results["chosen_by"]

    evaluate(config, tmp_path)
    assert len(reads) == 4
    assert "delete it to read the test set again" in capsys.readouterr().out
    config.momentum = 0.5
    with pytest.raises(UserError, match=r"momentum was 0\.9 and is now 0\.5; choose another --workdir"):
        evaluate(config, tmp_path)


def test_linear_without_retraining_reports_the_chosen_head(labelled, tmp_path, reads):
    """An infinite rate is a point of the grid without a score, and is not chosen."""
    config = small_probe("linear_moco", labelled)
    config.num_epochs, config.retrain, config.lr, config.pooling = 4, False, (np.inf, RATE * 30.0), ("gap", "res5")
    evaluate(config, tmp_path)
    results = results_of(tmp_path)
    assert len(reads) == 3
    assert [point["held_out"] is None for point in results["grid"]] == [True, False]
    assert (results["chosen"]["lr"], results["chosen"]["pooling"]) == (RATE * 30.0, "gap")
    assert [*results["heads"]] == ["gap", "res5"] and results["heads"]["gap"]["top1"] == results["top1"]
    assert results["chosen_by"].endswith("trained without them")


def test_train_heads_resumes_with_the_same_bits(labelled, tmp_path, monkeypatch, capsys):
    """linear_orl has everything: momentum, batch norm, random colours."""
    config = small_probe("linear_orl", labelled)
    config.num_epochs, config.checkpoint_every_epochs = 4, 1
    spec = spec_of(ProbeSpec, config)
    encoder, train = open_encoder(config), open_labelled(str(labelled))

    def trained(folder):
        return train_heads(spec, encoder, train, 32, tmp_path / folder)

    whole, put, count = trained("whole"), sgd.put_batch, iter(range(100))

    def interrupted(mesh, batch):
        if next(count) == 7:  # of 3 per epoch: in the third epoch
            raise KeyboardInterrupt
        return put(mesh, batch)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(sgd, "put_batch", interrupted)
        trained("interrupted")
    jax.tree.map(np.testing.assert_array_equal, trained("interrupted"), whole)
    assert "resuming after epoch 2" in capsys.readouterr().out
    assert np.ptp(whole.statistics["res5"]["mean"]) > 0


@pytest.mark.parametrize(
    ("held_out", "images", "classes", "expected"),
    [(0, 1_281_167, 1000, 10_009), (0, 9469, 10, 946), (0, 12_811, 1000, 5000), (0, 24, 2, 10), (77, 9469, 10, 77)],
)
def test_number_to_hold_out(labelled, held_out, images, classes, expected):
    train = open_labelled(str(labelled))._replace(num_images=images, classes=("x",) * classes)
    assert number_to_hold_out(held_out, train) == expected


@pytest.fixture
def cifar(tmp_path):
    """Mocked CIFAR-10: 20 photos in each split, of random pixels and labels."""
    builder = tfds.builder("cifar10", data_dir=tmp_path / "tfds")
    template = tfds.core.ShardedFileTemplate(
        data_dir=builder.data_dir, dataset_name=builder.name, filetype_suffix="tfrecord"
    )
    infos = [
        tfds.core.SplitInfo(
            name=split, shard_lengths=[20], num_bytes=1, filename_template=template.replace(split=split)
        )
        for split in ("train", "test")
    ]
    builder.info.set_splits(tfds.core.SplitDict(infos))
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_path)
    with tfds.testing.mock_data(num_examples=20, data_dir=str(tmp_path / "tfds")):
        yield


def test_linear_on_a_tfds_set(cifar, tmp_path):
    """Encoded photos rather than files. What is right of 20 random ones is a multiple of 5 %."""
    config = small_probe("linear_moco", "cifar10:train")
    config.data.test, config.num_epochs = "cifar10:test", 2
    evaluate(config, tmp_path / "probe")
    results = results_of(tmp_path / "probe")
    assert (results["classes"], results["train"]["images"], results["test"]["images"]) == (10, 20, 20)
    assert results["top1"] in range(0, 101, 5) and results["top1"] <= results["top5"]


def test_logistic_separates_and_caches_its_features(labelled, tmp_path, reads):
    config = small_probe("logistic", labelled)
    config.inverse_l2 = (1e-6, 1.0)
    evaluate(config, tmp_path)
    results = results_of(tmp_path)
    assert results["top1"] > 99
    assert len(results["grid"]) == 2 and results["chosen"]["inverse_l2"] in (1e-6, 1.0)
    assert len(reads) == 3  # the rest, the part that is held out, the test set
    (tmp_path / "results.json").unlink()
    evaluate(config, tmp_path)
    assert len(reads) == 3
    assert results_of(tmp_path) == results


def three_classes(count: int, noise: float) -> Features:
    """Features [count, 4] of which the second alone tells the class; the others are larger, and noise."""
    rng = np.random.default_rng(count)
    labels = rng.integers(0, 3, count)
    features = rng.normal(size=(count, 4)) * [100.0, noise, 10.0, 1.0]
    features[:, 1] += labels
    return Features(features.astype(np.float32), labels)


def test_fit_logistic_does_not_depend_on_scales():
    train, test = three_classes(400, noise=0.05), three_classes(200, noise=0.05)
    logits = fit_logistic(train, test.features, 100.0)
    assert logits.shape == (200, 3)
    assert accuracy(logits, test.labels, 1) > 97
    scales = np.array([1e-3, 1.0, 7.0, 1e3], np.float32)
    rescaled = fit_logistic(Features(train.features * scales, train.labels), test.features * scales, 100.0)
    np.testing.assert_array_equal(rescaled.argmax(1), logits.argmax(1))


def test_fit_logistic_with_two_classes_ranks_both():
    train = three_classes(300, noise=0.05)
    train = Features(train.features[train.labels < 2], train.labels[train.labels < 2])
    logits = fit_logistic(train, train.features, 1.0)
    assert logits.shape == (len(train.labels), 2)
    assert accuracy(logits, train.labels, 1) > 97


def test_fit_logistic_never_predicts_an_unseen_class():
    train = three_classes(300, noise=0.05)
    shown = train.labels != 1
    logits = fit_logistic(Features(train.features[shown], train.labels[shown]), train.features, 1.0)
    assert accuracy(logits[shown], train.labels[shown], 1) > 97
    assert np.isneginf(logits[:, 1]).all()


def test_fit_logistic_refuses_to_stop_before_it_converges(monkeypatch):
    monkeypatch.setattr(logistic, "_MAX_ITER", 1)
    with pytest.raises(UserError, match=r"did not converge in 1 iterations; lower --config\.inverse_l2=1\.0"):
        fit_logistic(three_classes(300, noise=1.0), np.zeros((1, 4)), 1.0)


def test_linear_refuses_another_protocol_as_a_field(labelled, tmp_path):
    config = small_probe("linear_moco", labelled)
    config.protocol = "logistic"
    with pytest.raises(UserError, match="is the config's argument, not a field"):
        evaluate(config, tmp_path)
