"""The shipped config, shrunk, from photos to features: training, resume, evaluation, and what users get wrong."""

import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

import univip_jax
from configs import knn, linear
from tests.small import prepare_photos, small_config, write_photos
from univip_jax.checkpoint import Checkpoints, Retention
from univip_jax.config import read_config
from univip_jax.data.index import Index
from univip_jax.data.records import open_dataset
from univip_jax.errors import DamagedCheckpoint, UserError
from univip_jax.evaluate.knn import evaluate_knn
from univip_jax.evaluate.linear import evaluate_linear
from univip_jax.metrics import MetricsWriter
from univip_jax.plan import make_plan
from univip_jax.sharding import make_mesh, replicated
from univip_jax.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_photos(root / "photos", 24)
    return prepare_photos(root / "photos", root / "prepared")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A finished run of 4 steps with checkpoints after 2 and 4."""
    folder = tmp_path_factory.mktemp("run")
    train(small_config(data), folder)
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Two classes, told apart by brightness, 12 photos each."""
    root, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 150)):
        (root / name).mkdir()
        for index in range(12):
            pixels = rng.integers(low, low + 100, (40, 52, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def states(folder, step):
    config = read_config(folder)
    like = jax.eval_shape(make_plan(config, 24).init_state)
    with Checkpoints(folder) as checkpoints:
        state, _ = checkpoints.restore(step, like, replicated(make_mesh()))
    return jax.device_get(state)


def test_a_run_leaves_config_metrics_checkpoints_and_a_picture(run):
    assert read_config(run).loss.instance == 1.0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        terms = [line[f"train/loss_{name}"] for name in ("scene", "scene_instance", "instance")]
        assert np.isfinite(terms).all()
        np.testing.assert_allclose(line["train/loss"], 2 * sum(terms), rtol=1e-5)
        assert line["train/images_per_second"] > 0
    with Checkpoints(run) as checkpoints:
        assert checkpoints.steps() == [2, 4]
    with Image.open(run / "first_batch.png") as picture:
        assert picture.width > 1000
    assert list(run.glob("events.out.tfevents.*"))


def test_resume_equals_an_undisturbed_run_bit_for_bit(run, data, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "4")
    train(small_config(data), again)
    assert_equal_states(run, again, 4)
    lines = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


def assert_equal_states(one: Path, other: Path, step: int) -> None:
    expected, found = states(one, step), states(other, step)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def test_sigterm_saves_the_step_and_the_run_goes_on_from_it_bit_for_bit(run, data, tmp_path, monkeypatch, capsys):
    """The signal comes after the first step of four, between two checkpoints."""
    again, write = tmp_path / "again", MetricsWriter.write

    def terminate(writer, step, metrics):
        write(writer, step, metrics)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    config = small_config(data)
    with monkeypatch.context() as patched:
        patched.setattr(MetricsWriter, "write", terminate)
        train(config, again)
    # The signal came while step 1 was reported: step 2 is the first after which the loop asks.
    assert "SIGTERM: saving step 2 of 4" in capsys.readouterr().out
    with Checkpoints(again) as checkpoints:
        assert checkpoints.steps() == [2]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    train(config, again)
    assert_equal_states(run, again, 4)


def damage(folder: Path, step: int) -> None:
    """Flips one bit in a hundred bytes of all that a checkpoint's arrays are stored in, whichever file holds which."""
    files = [path for path in (folder / "checkpoints" / str(step)).rglob("d/*") if path.is_file()]
    assert files
    for path in files:
        data = bytearray(path.read_bytes())
        for place in range(len(data) // 2 % 100, len(data), 100):
            data[place] ^= 8
        path.write_bytes(data)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_gives_the_same_end(run, data, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    damage(again, 4)
    train(small_config(data), again)
    printed = capsys.readouterr()
    assert "set aside as damaged-4" in printed.err and "going on from step 2" in printed.out
    assert (again / "checkpoints" / "damaged-4").is_dir()
    assert_equal_states(run, again, 4)


def test_an_evaluation_of_a_damaged_checkpoint_is_refused(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    damage(again, 4)
    with pytest.raises(UserError, match=r"checkpoints/4 is damaged \(.*\); others are of steps \[2\]"):
        univip_jax.load_encoder(again)
    assert univip_jax.load_encoder(run).step == 4


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")])
def test_a_disk_or_device_that_fails_sets_no_checkpoint_aside(run, data, tmp_path, monkeypatch, error):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "4")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, "restore", fail)
    with pytest.raises((UserError, jax.errors.JaxRuntimeError), match=r"cannot be read: .*Input/output|RESOURCE_EXH"):
        train(small_config(data), again)
    assert [path.name for path in (again / "checkpoints").iterdir()] == ["2"]


def test_a_checkpoint_of_an_older_version_is_neither_damaged_nor_set_aside(tmp_path):
    with Checkpoints(tmp_path, Retention(1)) as checkpoints:
        state = {"params": {"a": jax.numpy.ones(3)}}
        items = {"state": ocp.args.StandardSave(state), "meta": ocp.args.JsonSave({"fingerprint": "x"})}
        checkpoints._manager.save(4, args=ocp.args.Composite(**items))
        checkpoints.wait()
        with pytest.raises(UserError, match=r"checkpoints/4 carries no digests: an older version") as error:
            checkpoints.restore(4, state, replicated(make_mesh()))
        assert not isinstance(error.value, DamagedCheckpoint)


def test_where_no_checkpoint_is_whole_the_run_does_not_silently_begin_anew(run, data, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    damage(again, 4)
    damage(again, 2)
    with pytest.raises(UserError, match=r"no checkpoint of .* is whole: damaged-4, damaged-2 were set aside there"):
        train(small_config(data), again)
    assert sorted(p.name for p in (again / "checkpoints").iterdir()) == ["damaged-2", "damaged-4"]


def test_a_finished_run_is_left_alone(run, data, capsys):
    train(small_config(data), run)
    assert "is finished" in capsys.readouterr().out


def test_another_config_is_refused_by_field(run, data):
    config = small_config(data)
    config.optimizer.lr = 0.3
    with pytest.raises(UserError, match=r"optimizer\.lr was 0\.2 and is now 0\.3"):
        train(config, run)


def test_another_data_set_is_refused(run, tmp_path):
    write_photos(tmp_path / "photos", 17)
    other = prepare_photos(tmp_path / "photos", tmp_path / "prepared")
    half = tmp_path / "half"
    shutil.copytree(run, half)
    shutil.rmtree(half / "checkpoints" / "4")
    with pytest.raises(UserError, match="is not the data set"):
        train(small_config(other), half)


def test_steps_that_are_not_finite_change_nothing_and_end_the_run_when_they_are_too_many(data, tmp_path, capsys):
    """The warm-up's first rate is 0; step 1 spoils the parameters, so that steps 2 and 3 are not finite."""
    config, folder = small_config(data), tmp_path / "run"
    config.optimizer.lr = 1e38
    config.max_bad_steps = 2
    with pytest.raises(UserError, match=r"step 3 is not finite: loss nan.*; it is the last of 2 in a row, and"):
        train(config, folder)
    warned = [line for line in capsys.readouterr().err.splitlines() if "nothing of it was kept" in line]
    assert [line.split()[1] for line in warned] == ["2"]
    bundle = json.loads((folder / "not_finite.json").read_text())["steps"]
    assert [step["step"] for step in bundle] == [2, 3]
    index = Index(open_dataset(str(data)), config.seed, config.batch_size)
    for step in bundle:
        # Photos are 000.png, 001.png, ...; the order of the records is that of their names.
        expected = [f"{record:03d}.png" for record in index.rows(step["step"]).records]
        assert step["photos"] == expected and isinstance(step["metrics"]["train/loss"], str)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert "train/loss" in lines[1] and "train/loss" not in lines[2]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", 7, "batch_size=7 is not divisible by the 4 devices"),
        ("batch_size", 64, "holds 24 photos, less than one batch"),
        ("views.num_instances", 65, "views.num_instances=65"),
        ("views.num_instances", 0, "views.num_instances=0, but"),
        ("views.proposals", "annotated", "holds no annotations"),
        ("model.backbone", "resnet51", "model.backbone='resnet51'"),
        ("optimizer.warmup_epochs", 9.0, "optimizer.warmup_epochs=9.0"),
        ("data.train", "nowhere", "nowhere"),
    ],
)
def test_a_wrong_value_is_named_before_anything_is_written(data, tmp_path, field, value, message):
    config = small_config(data)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_byol_crops_and_forwards_no_instance(data):
    plan = make_plan(small_config(data, "table7=a"), 24)
    assert plan.views.num_instances == 0
    assert not plan.views.overlap
    assert "f_linear" not in jax.eval_shape(plan.init_state).params


def test_load_encoder_gives_the_checkpoints_backbone(run):
    encoder = univip_jax.load_encoder(run)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 33, 3), dtype=np.uint8)
    features = encoder(images)
    assert features.shape == (3, 64)
    assert features.dtype == np.float32
    state = states(run, 4)
    for path, leaf in jax.tree_util.tree_leaves_with_path(encoder.variables["params"]):
        expected = state.params["encoder"]["backbone"]
        for key in path:
            expected = expected[key.key]
        np.testing.assert_array_equal(leaf, expected)
    with pytest.raises(UserError, match="uint8"):
        encoder(images.astype(np.float32))


@pytest.mark.parametrize("pretrained", ["run", "random"])
def test_knn_and_linear_write_results(run, labelled, tmp_path, pretrained):
    logistic = linear.get_config()
    logistic.protocol = "logistic"
    evaluations = (
        (knn.get_config(), evaluate_knn),
        (linear.get_config(), evaluate_linear),
        (logistic, evaluate_linear),
    )
    for config, evaluate in evaluations:
        config.pretrained = str(run) if pretrained == "run" else "random"
        config.data.train = config.data.test = str(labelled)
        config.batch_size, config.image_size = 8, 32
        config.model = small_config(labelled).model
        if config.task == "knn":
            config.k = (3,)
        else:
            config.num_epochs, config.lr = 20, 1.0
        evaluate(config, tmp_path / config.task)
        results = json.loads((tmp_path / config.task / "results.json").read_text())
        assert results["pretrained"] == config.pretrained
        assert results["classes"] == 2
        assert results["top1"] >= 90  # dark and light photos are easy for any features


def test_a_path_that_is_no_run_and_a_set_that_is_none(run, labelled, tmp_path):
    with pytest.raises(UserError, match="is no run"):
        univip_jax.load_encoder(tmp_path)
    config = knn.get_config()
    config.pretrained, config.data.train, config.data.test = str(run), str(labelled), "nowhere"
    with pytest.raises(UserError, match="'nowhere' is neither a folder nor a TFDS name"):
        evaluate_knn(config, tmp_path)
    config.data.test, config.k = str(labelled), (200,)
    with pytest.raises(UserError, match="k=200 is more than the 24 photos"):
        evaluate_knn(config, tmp_path)
