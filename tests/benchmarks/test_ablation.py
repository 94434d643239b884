"""Views made in JAX equal the shipped pipeline's; rows train, are kept, and appear beside the paper's."""

import json

import numpy as np
import pytest

from benchmarks.ablation import row
from benchmarks.ablation.budgets import parse_changes, row_config
from benchmarks.ablation.row import METRICS, UNTRAINED, mean_statistics, run_row
from benchmarks.ablation.table import RESULTS, read_results, table_lines
from benchmarks.scenes.packed import Packed, Scenes, Singles
from univip_jax.common.errors import UserError
from univip_jax.plan import make_plan
from univip_jax.run.log import read_metrics

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
