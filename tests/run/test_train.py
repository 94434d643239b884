"""The shipped config, shrunk, from photos to features: training, evaluation, and what users get wrong."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import univip_jax
from configs import knn
from tests.small import prepare_photos, small_config, state_after
from univip_jax.common.errors import UserError
from univip_jax.evaluate import knn as knn_task
from univip_jax.plan import make_plan
from univip_jax.report.page import write_report
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.run.folder import read_config, read_photo_warnings, write_photo_warnings
from univip_jax.run.pretraining import open_run, train
from univip_jax.weights.warm_start import starting_encoder


def test_a_run_leaves_config_metrics_checkpoints_and_a_picture(run):
    assert read_config(run).loss.instance == 1.0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        terms = [line[f"train/loss_{name}"] for name in ("scene", "scene_instance", "instance")]
        assert np.isfinite(terms).all()
        np.testing.assert_allclose(line["train/loss"], 2 * sum(terms), rtol=1e-5)
        assert line["train/images_per_second"] > 0
    # Without any labels, at each checkpoint: 1 and 0 would be a collapse.
    spread = {line["step"]: line for line in lines if "features/effective_rank" in line}
    assert list(spread) == [2, 4]
    assert all(1 < line["features/effective_rank"] <= 8 and line["features/std"] > 0 for line in spread.values())
    with Checkpoints(run) as checkpoints:
        assert checkpoints.steps() == [2, 4]
    with Image.open(run / "first_batch.png") as picture:
        assert picture.width > 1000
    assert list(run.glob("events.out.tfevents.*"))


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


def test_annotated_boxes_of_a_tfds_set_need_no_annotations_json(data, tmp_path):
    """Its manifest names no json, and counts the objects that came with the photos."""
    prepared = shutil.copytree(data, tmp_path / "prepared")
    manifest = json.loads((prepared / "manifest.json").read_text())
    manifest["proposals"]["num_objects"] = 5
    (prepared / "manifest.json").write_text(json.dumps(manifest))
    run = open_run(small_config(prepared, "table8=annotated"), tmp_path / "run", None)
    assert run.plan.views.proposals == "annotated"


def test_byol_crops_and_forwards_no_instance(data):
    plan = make_plan(small_config(data, "table7=a"), 24)
    assert plan.views.num_instances == 0
    assert not plan.views.overlap
    assert "f_linear" not in jax.eval_shape(plan.init_state).params


def test_photos_that_cannot_teach_are_told_at_the_start_and_on_the_page(tmp_path, capfd):
    """24 photos (as `data`: the compiled step is the same) of 3 x 3 px, 20 of them equal."""
    (tmp_path / "photos").mkdir()
    for index in range(24):
        pixels = np.random.default_rng(min(index, 4)).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{index:03d}.png")
    data, folder = prepare_photos(tmp_path / "photos", tmp_path / "prepared"), tmp_path / "run"
    train(small_config(data), folder)
    shutil.rmtree(data)  # the page needs no data set
    start = capfd.readouterr().out.partition("compiling")[0]
    _, told = write_report(folder)
    expected = (
        "20 of 24 photos are copies of each other, 5 photos are distinct; the largest group has 20 (first: '004.png', ",
        "24 of 24 photos are too small, their shorter side is below views.scene_size=32 px (the smallest: 3 px, ",
        "24 of 24 photos have no box: ",
    )
    for line, beginning in zip(told, expected, strict=False):
        assert line.startswith(beginning) and f"warning   {line}\n" in start
    assert start.count("warning   ") == 3 <= len(told)


def test_a_run_on_other_photos_forgets_what_it_said(tmp_path):
    write_photo_warnings(tmp_path, ["one", "another"])
    assert read_photo_warnings(tmp_path) == ["one", "another"]
    write_photo_warnings(tmp_path, [])
    assert read_photo_warnings(tmp_path) == [] and not list(tmp_path.iterdir())


def test_load_encoder_gives_the_checkpoints_backbone(run):
    encoder = univip_jax.load_encoder(run)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 33, 3), dtype=np.uint8)
    features = encoder(images)
    assert features.shape == (3, 64)
    assert features.dtype == np.float32
    state = state_after(run, 4)
    for path, leaf in jax.tree_util.tree_leaves_with_path(encoder.variables["params"]):
        expected = state.params["encoder"]["backbone"]
        for key in path:
            expected = expected[key.key]
        np.testing.assert_array_equal(leaf, expected)
    with pytest.raises(UserError, match="uint8"):
        encoder(images.astype(np.float32))


def test_starting_encoder_is_the_backbone_before_the_first_step(run):
    """The state that `start_or_resume` trains from, bit for bit."""
    state = jax.jit(make_plan(read_config(run), 24).init_state)()
    for kind, found in starting_encoder(run).variables.items():
        jax.tree.map(np.testing.assert_array_equal, found, getattr(state, kind)["encoder"]["backbone"])


@pytest.mark.parametrize("pretrained", ["run", "random"])
def test_knn_writes_results(run, labelled, tmp_path, pretrained):
    config = knn.get_config()
    config.pretrained = str(run) if pretrained == "run" else "random"
    config.data.train = config.data.test = str(labelled)
    config.batch_size, config.image_size, config.k = 8, 32, (3,)
    config.model = small_config(labelled).model
    knn_task.evaluate(config, tmp_path / "knn")
    results = json.loads((tmp_path / "knn" / "results.json").read_text())
    assert results["pretrained"] == config.pretrained
    assert results["classes"] == 2
    assert results["top1"] >= 90  # dark and light photos are easy for any features


def test_a_path_that_is_no_run_and_a_set_that_is_none(run, labelled, tmp_path):
    with pytest.raises(UserError, match="is no run"):
        univip_jax.load_encoder(tmp_path)
    config = knn.get_config()
    config.pretrained, config.data.train, config.data.test = str(run), str(labelled), "nowhere"
    with pytest.raises(UserError, match="'nowhere' is neither a folder nor a TFDS name"):
        knn_task.evaluate(config, tmp_path)
    config.data.test, config.k = str(labelled), (200,)
    with pytest.raises(UserError, match="k=200 is more than the 24 photos"):
        knn_task.evaluate(config, tmp_path)
