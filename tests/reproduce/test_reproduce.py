"""The paper's tables beside made-up results: the row of a result, its differences, the commands for what is missing."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from configs import coco, demo, imagenet
from configs.common import TABLE8
from tests.reproduce.made_up import COCO_STEPS, name_of, parse, rows, write_result, write_run
from univip_jax.common.errors import UserError
from univip_jax.config import flatten
from univip_jax.reproduce.rows import TABLES, Row
from univip_jax.reproduce.table import compare

ROOT = Path(__file__).parents[2]


def test_compare_averages_seeds_of_the_papers_settings(tmp_path):
    """60.0 and 60.6 of two seeds: 60.3, std 0.3 sqrt 2. The results name paths of another machine."""
    write_run(tmp_path / "deep/coco", coco.get_config())
    write_result(tmp_path / "a", "/elsewhere/deep/coco", 60.0)
    write_result(tmp_path / "b", "/elsewhere/deep/coco", 60.6, seed=1)
    write_result(tmp_path / "again", "/elsewhere/deep/coco", 60.6, seed=1)  # a copy of the same evaluation
    write_result(tmp_path / "older", "/elsewhere/deep/coco", 41.0, step=1000)
    write_result(tmp_path / "byol", "/elsewhere/deep/coco", 59.0, protocol="linear_byol")
    text = compare(TABLES[1], tmp_path)
    run = f"/elsewhere/deep/coco, step {COCO_STEPS}"
    orl, moco = rows(text)["UniVIP, COCO, 800 epochs"]
    assert orl == ["60.2", "60.30 ± 0.42 (n = 2)", "none", run, "linear_orl"]
    assert moco == ["60.2", "missing", "", "", "linear_moco"]
    assert [name for name, cells in rows(text).items() if cells[0][1] == "missing"] == [
        "untrained",
        "BYOL, COCO, 800 epochs",
        "BYOL, COCO+, 800 epochs",
        "UniVIP, COCO+, 800 epochs",
        "BYOL, ImageNet, 200 epochs",
        "UniVIP, ImageNet, 200 epochs",
        "UniVIP, ImageNet, 300 epochs",
    ]
    left_out = re.findall(r"- (linear_\w+ [\d.]+), .*: (an.*) \(", text)
    other = "another protocol than its rows', linear_orl and linear_moco"
    assert left_out == [("linear_byol 59.00", other), ("linear_orl 41.00", "an older step")]
    evaluation = [words for words in commands(1, tmp_path) if f"--config.pretrained={tmp_path}/deep/coco" in words]
    assert [words[2] for words in evaluation] == ["--config=configs/linear.py:protocol=linear_moco"]  # the only gap


def test_compare_prints_differences_and_averages_only_equal_settings(tmp_path):
    photos = tmp_path / "mine"
    photos.mkdir()
    (photos / "manifest.json").write_text(json.dumps({"num_records": 5120}))
    short = {"batch_size": 256, "num_epochs": 100.0, "model.backbone": "resnet18", "data.train": str(photos)}
    write_run(tmp_path / "short", coco.get_config("table7=e"), **short)
    write_run(tmp_path / "full", coco.get_config(), seed=3)
    write_result(tmp_path / "a", "full", 60.0)
    write_result(tmp_path / "b", "full", 50.0, epochs=5, classes=10, test={"images": 500}, image_size=96)
    write_result(tmp_path / "c", "short", 20.0, step=1000)
    found = [cells[1:4] for cells in rows(compare(TABLES[7], tmp_path))["(e) all three"]]
    assert found == [
        ["60.00", "none", f"full, step {COCO_STEPS}"],
        [
            "50.00",
            "evaluation.classes 10, not 1000; evaluation.epochs 5, not 28; evaluation.image_size 96, not 224; "
            "evaluation.test_photos 500, not 50000",
            f"full, step {COCO_STEPS}",
        ],
        [
            "20.00",
            "batch_size 256, not 512; model.backbone resnet18, not resnet50; num_epochs 100.0, not 800.0; "
            "photos 5120, not 118287; step 1000 of 2000",
            "short, step 1000",
        ],
    ]


CASES = [
    ("table7=c", 7, ["(c) scene, scene-instance"]),
    ("table7=b", 7, ["(b) scene"]),
    ("table7=b", 8, ["(b) region candidates: none", "(c) K = 0"]),
    ("table8=k8", 8, ["(c) K = 8"]),
    ("table8=naive", 8, ["(b) region candidates: naive"]),
    ("table8=random_views", 8, ["(a) scene similarity: no"]),
    ("", 8, ["(a) scene similarity: yes", "(b) region candidates: selective search", "(c) K = 4"]),
    ("table7=a", 8, []),
    ("table8=k2", 1, []),
]


@pytest.mark.parametrize(("arg", "table", "names"), CASES)
@pytest.mark.parametrize("change", [{"ema.base": 0.97}, {"row": ""}])
def test_a_run_belongs_to_the_rows_it_names_or_equals(tmp_path, arg, table, names, change):
    """A changed field leaves a run in the rows that its config names; a run of an older version names none."""
    write_run(tmp_path / "run", coco.get_config(arg), **change)
    write_result(tmp_path / "a", "run", 33.0)
    text = compare(TABLES[table], tmp_path)
    found = {name: cells[0] for name, cells in rows(text).items() if "33.00" in cells[0]}
    assert list(found) == names
    assert all(("ema.base 0.97, not 0.99" in cells) == ("ema.base" in change) for cells in found.values())
    assert ("its pre-training belongs to no row of this table" in text) == (not names)


def test_a_run_of_another_config_belongs_to_no_row(tmp_path):
    write_run(tmp_path / "run", demo.get_config())
    write_run(tmp_path / "older", coco.get_config(), row="", num_epochs=400.0)
    for name in ("run", "older"):
        write_result(tmp_path / f"{name}_linear", name, 33.0)
    assert compare(TABLES[1], tmp_path).count("its pre-training belongs to no row of this table") == 2


def test_rows_of_table_1_differ_in_data_and_epochs(tmp_path):
    write_run(tmp_path / "long", imagenet.get_config(), num_epochs=290.0)
    write_run(tmp_path / "short", imagenet.get_config(), num_epochs=200.0)
    for name, top1 in (("long", 29.0), ("short", 10.0)):
        write_result(tmp_path / f"{name}_linear", name, top1, protocol="linear_byol", epochs=80, step=10**9)
    write_run(tmp_path / "plus", coco.get_config(), **{"data.train": "/disk/coco_plus"})
    write_result(tmp_path / "plus_linear", "plus", 62.0, step=10**9)
    found = rows(compare(TABLES[1], tmp_path))
    missing = ["missing", ""]  # linear_orl
    assert [cells[1:3] for cells in found["UniVIP, ImageNet, 300 epochs"]] == [
        ["29.00", "num_epochs 290.0, not 300.0"],
        missing,
    ]
    assert [cells[1:3] for cells in found["UniVIP, ImageNet, 200 epochs"]] == [
        ["29.00", "num_epochs 290.0, not 200.0"],
        ["10.00", "none"],
        missing,
    ]
    assert found["UniVIP, COCO+, 800 epochs"][0][1:3] == ["62.00", "none"]
    assert found["UniVIP, COCO, 800 epochs"][0][1] == "missing"


def test_semi_supervised_results_differ_in_their_share_of_labels(tmp_path):
    write_run(tmp_path / "coco", coco.get_config("table7=a"))
    for labels, images in ((1, 12_811), (10, 128_116)):
        fields = {
            "protocol": "semi_orl",
            "settings": {"model.backbone": "resnet50", "model.width": 1.0 / labels},
            "epochs": 20,
            "labels": labels,
            "top5": 50.0,
            "chosen": {"lr": 0.01},
            "train": {"images": images},
        }
        for name, top1 in (("coco", 20.0 + labels), ("random", 1.0)):
            write_result(tmp_path / f"{name}_{labels}", name, top1, **fields)
    found = rows(compare(TABLES[6], tmp_path))
    assert found["BYOL, COCO, 800 epochs, 1 %"][0][:3] == ["28.4 / 55.9", "21.00 / 50.00", "none"]
    assert found["BYOL, COCO, 800 epochs, 10 %"][0][:3] == ["58.4 / 82.7", "30.00 / 50.00", "none"]
    assert found["untrained, 1 %"][0][:3] == ["1.6 / 5.0", "1.00 / 50.00", "none"]
    assert found["untrained, 10 %"][0][2] == "model.width 0.1, not 1.0"


def test_command_skips_files_that_are_not_results(tmp_path):
    for name, text in (("cut", '{"protocol": "li'), ("list", "[1]"), ("bare", '{"protocol": "knn", "top1": "high"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{")
    write_result(tmp_path / "good", "run", 55.0)
    command = [sys.executable, "-m", "univip_jax.reproduce", "--table=1", f"--runs={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "linear_orl 55.00, run, step 184800: its training run was not found below --runs" in result.stdout
    for name in ("cut", "list", "bare"):
        assert f"skipped: {tmp_path / name}/results.json is not a result of this project" in result.stderr
    assert f"{tmp_path}/run/config.json is damaged" in result.stderr


def test_rows_need_the_configs_of_the_working_directory():
    with pytest.raises(UserError, match=r"configs/absent\.py is missing here: run this in the folder of main\.py"):
        _ = Row("", "absent:", (), ()).settings


def commands(table: int, root: Path) -> list[list[str]]:
    """The words of each command that the table asks for."""
    return [shlex.split(line) for line in compare(TABLES[table], root).splitlines() if line.startswith("python ")]


@pytest.mark.parametrize(
    ("table", "args"),
    [
        (1, ["table7=a", ""]),
        (7, [f"table7={row}" for row in "abcde"]),
        (8, ["table8=random_views", "", *(f"table8={row}" for row in TABLE8 if row != "random_views")]),
    ],
)
def test_rows_name_the_configs_of_the_tables(table, args):
    """An independent reading: `configs` called directly."""
    found = [row for row in TABLES[table].rows if row.config.startswith("coco:") and "box AP" not in row.name]
    for row, arg in zip(found, args, strict=True):
        assert row.config == f"coco:{arg}"
        assert row.settings | {"row": row.config} == flatten(coco.get_config(arg)) | {"photos": 118_287}


@pytest.mark.parametrize("table", TABLES)
def test_missing_pretrainings_are_those_of_the_rows(tmp_path, table):
    """A printed command trains with a row's settings; once the run exists, only its evaluation is missing."""
    trainings = [words for words in commands(table, tmp_path) if "--config.pretrained" not in " ".join(words)]
    assert len(trainings) == {1: 7, 2: 6, 3: 6, 4: 5, 5: 2, 6: 6, 7: 5, 8: 7}[table]
    for words in trainings:
        write_run(Path(words[-1].removeprefix("--workdir=")), parse(words))
    left = commands(table, tmp_path)
    assert all("--config.pretrained" in " ".join(words) for words in left)
    assert len(left) == {1: 1 + 7 * 2, 2: 7, 3: 7, 4: 6, 5: 9, 6: 14, 7: 10, 8: 14}[table]


@pytest.mark.parametrize("table", TABLES)
def test_missing_evaluations_follow_the_rows_protocol(tmp_path, table):
    found = [parse(words) for words in commands(table, tmp_path) if "--config.pretrained" in " ".join(words)]
    protocols = {name_of(config) for config in found}
    assert protocols == {one.name for row in TABLES[table].rows for one in row.evaluations}
    places = {config.task: (config.data.train.partition("2012")[0], config.data.test) for config in found}
    imagenet = "imagenet", "imagenet2012:validation"
    expected = {"linear": imagenet, "semi": imagenet, "detection": ("data/coco_train", "data/coco_val")}
    assert places.items() <= expected.items()


def test_commands_of_docs_reproduction_parse():
    """Commands of main.py and `configs/NAME.py:ARG` in tables name configs and fields that exist."""
    text = (ROOT / "docs/reproduction.md").read_text().replace("\\\n", "")
    found = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("python main.py")]
    found += [["python", "main.py", f"--config={config}"] for config in re.findall(r"`(configs/[\w.:=]+)`", text)]
    assert len(found) > 15 and all(parse(words).task in ("train", "linear", "semi", "detection") for words in found)
