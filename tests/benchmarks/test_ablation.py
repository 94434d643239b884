"""Views made in JAX equal the shipped pipeline's; rows train, are kept, and appear beside the paper's."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from benchmarks.ablation import row, views
from benchmarks.ablation.budgets import parse_changes, row_config
from benchmarks.ablation.row import METRICS, UNTRAINED, mean_statistics, run_row
from benchmarks.ablation.table import RESULTS, read_results, table_lines
from benchmarks.scenes.packed import Packed, Scenes, Singles
from univip_jax.common.errors import UserError
from univip_jax.data import crops
from univip_jax.data.pipeline import record_seed
from univip_jax.plan import make_plan
from univip_jax.run.log import read_metrics
from univip_jax.views import CROPS, INTERPOLATIONS

SIDE = 128
TINY = {
    **{"batch_size": "4", "num_steps": "4", "log_every_steps": "1", "optimizer.warmup_epochs": "0.5"},
    **{"views.scene_size": "16", "views.instance_size": "8", "model.width": "0.125"},
    **{"model.hidden": "16", "model.projection": "8"},
}


@pytest.fixture(scope="module")
def packed():
    """12 noisy scenes with 20 boxes, and two classes that differ in brightness."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.6, (12, 20, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.1, 0.4, (12, 20, 2))], -1).astype(np.float32)
    boxes[:, 15:] = 0  # padding
    labels = np.arange(40) % 2
    singles = (rng.integers(0, 60, (40, 16, 16, 3)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    photos = rng.integers(0, 255, (12, SIDE, SIDE, 3), dtype=np.uint8)
    return Packed(
        "f", Scenes(photos, boxes, boxes[:, :3]), Singles(singles, labels), Singles(singles[:10], labels[:10])
    )


@pytest.fixture(scope="module")
def spec():
    return make_plan(row_config("small", 7, "e", 0, TINY), 12).views


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_crop_equals_the_shipped_pipeline(packed, interpolation):
    boxes = np.array([[0.1, 0.2, 0.9, 0.7], [0, 0, 1, 1], [0.33, 0.4, 0.41, 0.46]], np.float32)
    expected = crops.crop(tf.constant(packed.scenes.photos[0]), tf.constant(boxes), 24, interpolation).numpy()
    found = np.asarray(views.crop(jnp.asarray(packed.scenes.photos[0]), jnp.asarray(boxes), 24, interpolation))
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("crop", CROPS)
def test_crops_are_distributed_like_the_shipped_pipelines(spec, crop):
    """Area, log aspect and place; Kolmogorov and Smirnov's bound for two samples of 20,000 at 1e-6 is 0.027."""
    spec, side = replace(spec, crop=crop), tf.constant(float(SIDE))
    ours = views.random_crops(jax.random.key(0), SIDE, 20000, spec)
    expected = crops.random_crops(tf.constant([0, 0]), side, side, 20000, spec).numpy()
    for of in (
        views.area,
        lambda boxes: jnp.log((boxes[:, 3] - boxes[:, 1]) / (boxes[:, 2] - boxes[:, 0])),
        lambda boxes: boxes[:, 0],
        lambda boxes: boxes[:, 3],
    ):
        assert stats.ks_2samp(of(ours), of(jnp.asarray(expected))).statistic < 0.027


@pytest.mark.parametrize(
    ("proposals", "crop"), [("stored", "torchvision"), ("stored", "uniform"), ("naive", "torchvision")]
)
def test_views_are_distributed_like_the_shipped_pipelines(packed, spec, proposals, crop):
    """Overlap, size and place of instances over 400 draws of one photo, within 4 standard errors."""
    spec, draws = replace(spec, proposals=proposals, crop=crop), 400
    stored = packed.scenes.proposals[0, :15]

    @tf.function
    def theirs(number):
        seeds = tf.random.split(record_seed(0, tf.constant(0, tf.int64), number), 3)
        side = tf.constant(float(SIDE))
        boxes = tf.constant(stored)
        if proposals == "naive":
            boxes = crops.naive_boxes(seeds[2], tf.constant([0.0, 0, 1, 1]), side, side, tf.fill([2], 16.0))
        scenes, region = crops.scene_pair(seeds[0], boxes, side, side, spec)
        return scenes, crops.instance_boxes(seeds[1], boxes, region, side, side, spec)

    ours = jax.jit(jax.vmap(partial(views.choose_views, stored=stored, objects=stored[:3], side=SIDE, spec=spec)))
    scenes, regions, instances = ours(jax.random.split(jax.random.key(0), draws))
    expected = [np.stack(part) for part in zip(*(theirs(tf.constant(n, tf.int64)) for n in range(draws)), strict=True)]

    def measures(scenes, instances):
        overlap = np.asarray(views.area(views.intersection(scenes[:, 0], scenes[:, 1])))
        sizes, middles = np.asarray(views.area(instances)), np.asarray(instances[..., :2] + instances[..., 2:]) / 2
        return np.stack([overlap, sizes.mean(1), sizes.max(1), middles[..., 0].mean(1), middles[..., 1].std(1)], 1)

    a, b = measures(scenes, instances), measures(*map(jnp.asarray, expected))
    error = np.sqrt((a.var(0) + b.var(0)) / draws)
    assert np.all(np.abs(a.mean(0) - b.mean(0)) < 4 * error), (a.mean(0), b.mean(0), error)
    assert np.asarray(views.inside(instances, regions[:, None])).all()
    apart = np.asarray(instances)[:, :, None] != np.asarray(instances)[:, None]
    assert (apart.any(-1) | np.eye(4, dtype=bool)).all()


def test_run_row_trains_once(packed, tmp_path):
    # k-NN runs after every quarter, whatever log_every_steps is.
    config = row_config("tiny", 7, "a", 0, TINY | {"log_every_steps": "3"})
    first = run_row(config, packed, tmp_path / "a", "a")
    lines = read_metrics(tmp_path / "a")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(np.isfinite(line["train/loss"]) and "knn" in line for line in lines)
    assert first["knn"] == lines[-1]["knn"] and first["probe"] == 100  # the classes differ in brightness
    assert first["as_trained/probe"] == 100 and first["as_trained/rank"] != first["rank"]
    assert first["overlap"] == pytest.approx(np.mean([line["overlap"] for line in lines]))
    written = (tmp_path / "a" / METRICS).stat().st_mtime_ns
    assert run_row(config, packed, tmp_path / "a", "a") == first
    assert (tmp_path / "a" / METRICS).stat().st_mtime_ns == written
    with pytest.raises(UserError, match="another config or other scenes"):
        run_row(row_config("tiny", 7, "a", 1, TINY), packed, tmp_path / "a", "a")


def test_the_untrained_row_is_evaluated_as_it_is(packed, tmp_path):
    found = run_row(row_config("tiny", 7, "a", 0, TINY), packed, tmp_path / "u", UNTRAINED)
    assert 1 <= found["rank"] <= 10 and "overlap" not in found  # 10 test photos
    assert not (tmp_path / "u" / METRICS).exists()


def test_mean_statistics_are_those_of_the_photos(packed):
    """The first batch norm sees the stem's convolution of the photos, here by NumPy."""
    plan = make_plan(row_config("tiny", 7, "a", 0, TINY), 12)
    params = plan.init_state().params["encoder"]["backbone"]
    found = mean_statistics(plan.model, params, packed.train.photos)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = (packed.train.photos / 255 - mean) / std
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]  # n y x c dy dx
    outputs = np.einsum("nyxcij,ijcd->nyxd", windows, np.asarray(params["conv1"]["kernel"]))
    np.testing.assert_allclose(found["bn1"]["mean"], outputs.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["bn1"]["var"], outputs.var((0, 1, 2)), rtol=1e-3)


def test_table_lines_pair_by_seed_and_show_the_papers_rows(tmp_path):
    knn = {"untrained": [20.0], "a": [30.0, 34.0], "b": [33.0, 36.0, 41.0], "e_diagonal": [34.0, 39.0]}
    for name, values in knn.items():
        for seed, value in enumerate(values):
            folder = tmp_path / f"table7_{name}_seed{seed}"
            folder.mkdir()
            plan = {"plan/diagonal": 0.5 + seed / 10} if name == "e_diagonal" else {}
            (folder / RESULTS).write_text(json.dumps({"row": name, "seed": seed, "knn": value, "rank": 9.0} | plan))
    (tmp_path / "table7_c_seed0").mkdir()  # not finished
    results = read_results(tmp_path, 7)
    lines = table_lines(7, results)
    assert [line.split(" | ")[:3] for line in lines[2:6]] == [
        ["| untrained", "", "20.0"],
        ["| (a) BYOL", "57.3", "32.0 +- 2.8"],
        ["| (b) scene", "57.7", "36.7 +- 4.0"],
        ["| e_diagonal", "", "36.5 +- 3.5"],
    ]
    # Seeds 0 and 1: -3 and -2; 1 and 3. The standard error of two is half of their difference.
    assert lines[7].startswith("| minus b by seed")
    assert [line.split(" | ")[:3] for line in lines[9:11]] == [
        ["| (a) BYOL", "57.3", "-2.5 +- 0.5"],
        ["| e_diagonal", "", "+2.0 +- 1.0"],
    ]
    assert lines[14].split(" | ")[:3] == ["| e_diagonal", "", "0.55 +- 0.07"]
    assert "| (b) scene | 57.7 | +2.5 +- 0.5 |" in "\n".join(table_lines(7, results, "a"))
    with pytest.raises(UserError, match="--reference=c is not finished: choose from a,b,e_diagonal"):
        table_lines(7, results, "c")


def test_run_row_refuses_a_step_that_is_not_finite(packed, tmp_path, monkeypatch):
    metrics = {"train/loss": np.float32(np.nan), "train/bad_steps": np.int32(1)}
    monkeypatch.setattr(row, "compile_step", lambda plan, mesh: lambda state, views: (state, metrics))
    with pytest.raises(UserError, match="a: a step up to 1 was not finite"):
        run_row(row_config("tiny", 7, "a", 0, TINY), packed, tmp_path / "a", "a")
    assert not (tmp_path / "a" / RESULTS).exists()


@pytest.mark.parametrize(
    ("changes", "message"), [({"optimizer.rl": "1"}, "optimizer.rl"), ({"batch_size": "many"}, "batch_size=many")]
)
def test_row_config_names_a_wrong_change(changes, message):
    with pytest.raises(UserError, match=message):
        row_config("tiny", 7, "a", 0, changes)


def test_parse_changes_keeps_tuples_whole():
    assert parse_changes("") == {}
    assert parse_changes("augment.blur=(0.5,0.1),optimizer.lr=0.2") == {
        "augment.blur": "(0.5,0.1)",
        "optimizer.lr": "0.2",
    }
    with pytest.raises(UserError, match="'optimizer' has no value"):
        parse_changes("optimizer")


def test_the_budgets_keep_what_a_row_sets():
    assert row_config("tiny", 8, "k8", 3, {}).views.num_instances == 8
    assert row_config("tiny", 7, "e", 3, {}).views.num_instances == 2
    assert row_config("tiny", 7, "b", 3, {}).seed == 3
