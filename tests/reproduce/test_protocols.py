"""Where the paper names no protocol or rate, or its number is of another head: what is compared, and what is said."""

import pytest

from configs import coco, imagenet
from tests.reproduce.made_up import COCO_STEPS, rows, write_result, write_run
from univip_jax.reproduce.rows import TABLES
from univip_jax.reproduce.table import compare

RESNET50 = {"settings": {"model.backbone": "resnet50", "model.width": 1.0}}
# Of OpenSelfSup's untrained ResNet-50, from conv1 to the global mean.
OPENSELFSUP = {"res5": 6.54, "conv1": 11.37, "res2": 16.21, "res3": 13.47, "res4": 9.07, "gap": 44.35}


def heads(**top1: float) -> dict:
    return {"heads": {name: {"top1": value, "top5": 99.0} for name, value in top1.items()}}


def test_an_untrained_network_is_judged_by_its_best_layer(tmp_path):
    """16.21 of res2, not 6.54 of res5, and not the global mean, which is no layer of the protocol."""
    write_result(tmp_path / "a", "random", 6.54, step=0, **RESNET50, **heads(**OPENSELFSUP))
    write_result(tmp_path / "b", "random", 6.5, step=0, seed=1, **RESNET50, **heads(**OPENSELFSUP | {"res2": 16.01}))
    text = compare(TABLES[1], tmp_path)
    assert rows(text)["untrained"] == [["13.7", "16.11 ± 0.14 (n = 2) (res2)", "none", "random, step 0", "linear_orl"]]
    assert "13.7 is the best of five layers" in text


def test_an_untrained_network_without_all_heads_says_so(tmp_path):
    """A result of an older version, and one whose layer diverged."""
    write_result(tmp_path / "older", "random", 5.0, step=0, chosen={"pooling": "2x2"}, **RESNET50)
    write_result(tmp_path / "part", "random", 6.0, step=0, seed=1, **RESNET50, **heads(**OPENSELFSUP | {"res4": None}))
    found = [cells[1:3] for cells in rows(compare(TABLES[1], tmp_path))["untrained"]]
    best = "the paper's is the best of five"
    assert found == [
        ["5.00", f"evaluation.pooling 2x2, not res5; no heads of conv1, res2, res3, res4, res5: {best}"],
        ["16.21 (res2)", f"no heads of res4: {best}"],
    ]


def test_a_result_of_another_head_is_not_the_papers(tmp_path):
    """2x2: an older version, whose norm came after flattening."""
    write_run(tmp_path / "coco", coco.get_config())
    for name, pooling in (("a", "2x2"), ("b", "gap")):
        write_result(tmp_path / name, "coco", 60.0, chosen={"pooling": pooling}, seed=len(name))
    write_result(tmp_path / "c", "coco", 61.0, **heads(res5=61.0, gap=62.0))
    found = [cells[1:3] for cells in rows(compare(TABLES[7], tmp_path))["(e) all three"]]
    assert found == [
        ["60.00", "evaluation.pooling 2x2, not res5"],
        ["60.00", "evaluation.pooling gap, not res5"],
        ["61.00", "none"],
    ]


@pytest.mark.parametrize(
    ("lr", "different"), [(0.3, "none"), (0.45, "optimizer.lr 0.45: accepted"), (0.4, "optimizer.lr 0.4, not 0.3")]
)
def test_imagenet_for_200_epochs_is_at_orls_rate_or_at_byols(tmp_path, lr, different):
    """Both protocols are printed; with an accepted rate neither is missing."""
    write_run(tmp_path / "run", imagenet.get_config(), **{"num_epochs": 200.0, "optimizer.lr": lr})
    for protocol, epochs in (("linear_byol", 80), ("linear_orl", 28)):
        write_result(tmp_path / protocol, "run", 70.0, protocol=protocol, epochs=epochs, step=10**9)
    text = compare(TABLES[1], tmp_path)
    byol, orl = rows(text)["UniVIP, ImageNet, 200 epochs"]
    assert byol[1:3] == orl[1:3] == ["70.00", different]
    assert (byol[4], orl[4]) == ("linear_byol", "linear_orl")
    assert ("# UniVIP, ImageNet, 200 epochs" in text) == (lr == 0.4)
    assert (rows(text)["UniVIP, ImageNet, 300 epochs"][0][1] == "missing") == (lr != 0.4)


def test_coco_rows_have_the_protocol_of_the_global_mean_beside_orls(tmp_path):
    """OpenSelfSup reports the better of the two."""
    write_run(tmp_path / "coco", coco.get_config())
    write_result(tmp_path / "orl", "coco", 60.0)
    write_result(tmp_path / "moco", "coco", 59.0, protocol="linear_moco", epochs=100)
    text = compare(TABLES[1], tmp_path)
    run = f"coco, step {COCO_STEPS}"
    assert rows(text)["UniVIP, COCO, 800 epochs"] == [
        ["60.2", "60.00", "none", run, "linear_orl"],
        ["60.2", "59.00", "none", run, "linear_moco"],
    ]
    assert "# UniVIP, COCO, 800 epochs" not in text  # nothing is missing


def test_table_7_says_what_single_runs_can_confirm(tmp_path):
    assert "one run each can confirm d - b = 1.9 and e - a = 2.9" in compare(TABLES[7], tmp_path)
    top1, box_ap = ({row.name[1]: row.paper[0] for row in TABLES[7].rows[column::2]} for column in (0, 1))
    assert round(top1["d"] - top1["b"], 1) == 1.9 and round(top1["e"] - top1["a"], 1) == 2.9
    assert round(box_ap["c"] - box_ap["b"], 1) == 0.8 and round(box_ap["e"] - box_ap["a"], 1) == 1.3
