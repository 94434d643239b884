"""Commands whose every path lies in a bucket do what they do on a disk: the same numbers, the same bytes."""

import json
import re

import jax
import jax.numpy as jnp
import pytest

from configs import knn as knn_config
from configs import semi as semi_config
from tests.cloud.copies import files, put
from tests.small import small_config, write_photos
from univip_jax.common.errors import UserError
from univip_jax.common.files import at, remove_tree
from univip_jax.config import to_spec
from univip_jax.evaluate import knn, semi
from univip_jax.evaluate.sweep import sweep
from univip_jax.export.__main__ import export
from univip_jax.export.detectron2.configs import write_configs
from univip_jax.extract.__main__ import Request, extract_folder
from univip_jax.models.resnet import ResNet
from univip_jax.models.univip import ModelSpec, make_backbone
from univip_jax.report.page import write_report
from univip_jax.reproduce.results import find_runs
from univip_jax.reproduce.rows import TABLES
from univip_jax.reproduce.table import compare
from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.run.folder import write_config
from univip_jax.types import TrainState
from univip_jax.weights.encoder import load_encoder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Checkpoints of a backbone that has seen nothing, after 2 and 4 steps; all else in them is empty."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    config = small_config(folder / "data")
    write_config(folder, config)
    backbone = make_backbone(to_spec(ModelSpec, config, "model"))
    init, zero = jax.jit(lambda key: backbone.init(key, jnp.zeros((1, 32, 32, 3)), train=False)), jnp.zeros((), int)
    with Checkpoints(folder, Retention(2)) as checkpoints:
        for step in (2, 4):
            tree = {kind: {"encoder": {"backbone": one}} for kind, one in init(jax.random.key(step)).items()}
            checkpoints.save(step, TrainState(zero, tree["params"], tree["batch_stats"], {}, {}, {}, zero), {})
    lines = [{"step": n, "train/epoch": n / 3, "train/loss": 1 / n, "train/images_per_second": 9.0} for n in (2, 4)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


@pytest.fixture(autouse=True)
def home(servers, tmp_path, monkeypatch):
    """What commands keep on this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def tensors(contents: bytes) -> tuple[dict, bytes]:
    """The header of a safetensors file, whose metadata have no order, and its bytes."""
    length = int.from_bytes(contents[:8], "little")
    return json.loads(contents[8 : 8 + length]), contents[8 + length :]


def knn_of(run, labelled, workdir):
    config = knn_config.get_config()
    config.pretrained, config.data.train, config.data.test = str(run), str(labelled), str(labelled)
    config.k, config.batch_size = (5, 24), 8
    knn.evaluate(config, at(workdir))
    return json.loads((at(workdir) / "results.json").read_text())


def test_knn_gives_the_disks_numbers_and_keeps_features_here(run, labelled, bucket, tmp_path, capsys):
    wanted = knn_of(run, labelled, tmp_path / "knn")
    address, workdir, photos = put(run, f"{bucket}/run"), f"{bucket}/knn", put(labelled, f"{bucket}/labelled")
    found = knn_of(address, photos, workdir)
    assert found.pop("pretrained") == address and wanted.pop("pretrained") == str(run)
    for part in ("train", "test"):
        assert found[part].pop("name") == photos and wanted[part].pop("name") == str(labelled)
    assert found == wanted
    assert {path.name for path in at(workdir).iterdir()} == {"results.json", "settings.json"}
    (rows,) = (tmp_path / "home").rglob("*.rows")
    assert rows.read_bytes() == next((tmp_path / "knn").rglob("*.rows")).read_bytes()
    knn_of(address, photos, workdir)
    assert f"{workdir}/results.json is there already" in capsys.readouterr().out
    config = knn_config.get_config()
    config.pretrained, config.data.train, config.data.test, config.k = address, photos, photos, (3,)
    with pytest.raises(UserError, match=rf"{workdir} holds an evaluation of other settings: batch_size was 8"):
        knn.evaluate(config, at(workdir))


def test_a_sweep_writes_a_folder_for_each_checkpoint(run, labelled, gs, tmp_path):
    address, config = put(run, f"{gs}/run"), knn_config.get_config()
    config.pretrained, config.data.train, config.data.test = address, str(labelled), str(labelled)
    config.k, config.batch_size = (5,), 8
    sweep(knn.evaluate, config, at(f"{gs}/sweep"), steps=["all"], seeds=[])
    found = json.loads(at(f"{gs}/sweep/results.json").read_text())
    assert [one["step"] for one in found["steps"]] == [2, 4]
    wanted = {step: json.loads(at(f"{gs}/sweep/step_{step}_seed_0/results.json").read_text()) for step in (2, 4)}
    assert [one["mean"] for one in found["steps"]] == [wanted[2]["top1"], wanted[4]["top1"]]
    assert wanted[4]["top1"] == knn_of(run, labelled, tmp_path / "knn")["top1"]


def test_fine_tuning_gives_the_disks_numbers_and_drops_the_checkpoints_of_a_grid(run, labelled, s3, tmp_path):
    config = semi_config.get_config()
    config.pretrained, config.data.train, config.data.test = str(run), str(labelled), str(labelled)
    config.data.subset, config.batch_size, config.num_epochs, config.image_size = "all", 8, 1, 32
    config.lr, config.head_multiplier = (0.01, 0.1), (1.0,)
    found = []
    for workdir in (tmp_path / "semi", at(f"{s3}/semi")):
        semi.evaluate(config, workdir)
        found.append(json.loads((workdir / "results.json").read_text()))
        assert [name.rpartition("/")[2] for name in files(workdir / "grid")] == ["score.json"] * 2
        with Checkpoints(workdir / "final") as checkpoints:
            assert checkpoints.steps() == [1]
    assert found[0] == found[1]


def test_extract_writes_the_bytes_of_the_disk(run, bucket, tmp_path):
    write_photos(tmp_path / "photos", 5)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")
    request = Request(str(run), str(tmp_path / "photos"), tmp_path / "features.parquet", image_size=32, batch_size=4)
    extract_folder(request)
    out = at(f"{bucket}/deep/features.parquet")
    assert "without 1 that cannot be read" in extract_folder(request._replace(out=out))
    assert files(out.parent) == {
        path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("features")
    }
    assert not [*(tmp_path / "home").rglob("*.rows")]
    assert extract_folder(request._replace(out=out)) == f"{out} is finished already: delete it to make it anew"
    with pytest.raises(UserError, match=f"--out={out} holds features of other settings: stage was 4 and is now 3"):
        extract_folder(request._replace(out=out, stage=3))


def test_export_writes_the_bytes_of_the_disk_and_replaces_nothing(run, bucket, tmp_path):
    options = {"step": None, "results": [], "licence": "cc0-1.0"}
    address = at(put(run, f"{bucket}/{run.name}"))
    out = at(f"{bucket}/out/net.safetensors")
    export(run, "safetensors", tmp_path / "out" / "net.safetensors", **options)
    report = export(address, "safetensors", out, **options)
    assert report["arrays_are_bit_identical"]
    found, wanted = files(out.parent), files(tmp_path / "out")
    assert tensors(found.pop("net.safetensors")) == tensors(wanted.pop("net.safetensors"))
    assert found == wanted and found.keys() == {"net.safetensors.md", "net.safetensors.parity.json"}
    with pytest.raises(UserError, match=f"{out} exists; remove it, or choose another --out"):
        export(address, "safetensors", out, **options)
    out.unlink()
    with pytest.raises(UserError, match=rf"{re.escape(str(out))}\.md exists"):
        export(address, "safetensors", out, **options)


def test_configs_for_detectron2_name_the_file_and_are_never_replaced(bucket):
    written = write_configs(at(f"{bucket}/configs"), "net.pkl", ResNet("resnet50"))
    assert "WEIGHTS: net.pkl" in written[-1].read_text().replace('"', "")
    with pytest.raises(UserError, match=f"cannot write {bucket}/configs/1x.yaml: File exists; remove it"):
        write_configs(at(f"{bucket}/configs"), "net.pkl", ResNet("resnet50"))


def test_a_page_is_written_into_the_runs_folder(run, bucket, tmp_path):
    address = at(put(run, f"{bucket}/run"))
    page, warnings = write_report(address, photos=0)
    assert str(page) == f"{bucket}/run/report.html" and f"<title>{bucket}/run" in page.read_text()
    assert warnings == write_report(run)[1]


def test_a_table_finds_runs_and_results_by_two_listings(run, bucket, servers):
    for number in (1, 2):
        put(run, f"{bucket}/runs/{number}")
    result = {"protocol": "linear_orl", "top1": 20.0, "step": 4, "epochs": 28, "classes": 1000, "chosen": {}}
    result |= {"train": {"images": 5}, "test": {"images": 5}, "image_size": 224, "pretrained": f"{bucket}/runs/2"}
    place = at(f"{bucket}/runs/2_linear/results.json")
    place.write_text(json.dumps(result))
    at(f"{bucket}/runs/other/results.json").write_text("[]")
    faults = getattr(servers, bucket[:2]).faults
    before = faults.num_requests
    table = compare(TABLES[7], at(f"{bucket}/runs"))
    assert faults.num_requests - before <= 24  # not one for each object
    (row,) = (line for line in table.splitlines() if "20.00" in line)
    assert f"| {bucket}/runs/2, step 4 | linear_orl |" in row and "model.backbone resnet10, not resnet50" in row
    assert f"--workdir={bucket}/runs/coco_table7_e_800_linear_orl" in table


def test_what_is_not_there_is_one_line(gs):
    """The cause, whether or not a folder could be expected there."""
    for work in (write_report, load_encoder, find_runs):
        with pytest.raises(UserError, match=r"^gs://nosuch: there is no such bucket: check its name, or create it$"):
            work(at("gs://nosuch/run"))
    with pytest.raises(UserError, match=rf"^{gs}/run is no run: it has no config.json"):
        load_encoder(f"{gs}/run")


def test_remove_tree_leaves_its_neighbours(bucket):
    for name in ("a/1", "a/b/2", "ab/3"):
        (at(bucket) / name).write_text(name)
    remove_tree(at(bucket) / "a")
    remove_tree(at(bucket) / "none")
    assert files(at(bucket)) == {"ab/3": b"ab/3"}
