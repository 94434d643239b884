"""Features of a folder of photos: their rows, what an interruption leaves, and what a user can get wrong."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from absl import flags
from PIL import Image

from tests.small import small_config, write_photos
from univip_jax.common import cli as command
from univip_jax.common.errors import TransientError, UserError
from univip_jax.common.files import held
from univip_jax.config import to_spec
from univip_jax.data.labelled.sets import centre_batches, open_labelled
from univip_jax.data.labelled.views import centre_crop
from univip_jax.evaluate.features import FeatureCache
from univip_jax.extract import __main__ as extract
from univip_jax.extract.__main__ import Request, extract_folder
from univip_jax.models.univip import ModelSpec, make_backbone
from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.run.folder import write_config
from univip_jax.types import TrainState
from univip_jax.weights.encoder import load_encoder

ROOT = Path(__file__).parents[2]
PATHS = ["a.png", "b-1.png", "b/c.png", "b/d/e.PNG", "z.png"]  # as text: "-" comes before "/"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Checkpoints of a backbone that has seen nothing, after "1" and "2" steps; all else in them is empty."""
    folder = tmp_path_factory.mktemp("runs") / "lr=1"
    folder.mkdir()
    write_config(folder, small_config(folder))
    backbone = make_backbone(to_spec(ModelSpec, small_config(folder), "model"))
    init = jax.jit(lambda key: backbone.init(key, jnp.zeros((1, 32, 32, 3)), train=False))
    zero = jnp.zeros((), jnp.int32)
    with Checkpoints(folder, Retention(2)) as checkpoints:
        for step in (1, 2):
            variables = init(jax.random.key(step))
            tree = {kind: {"encoder": {"backbone": variables[kind]}} for kind in variables}
            checkpoints.save(step, TrainState(zero, tree["params"], tree["batch_stats"], {}, {}, {}, zero), {})
    return folder


@pytest.fixture
def photos(tmp_path):
    """Five painted photos in nested folders."""
    write_photos(tmp_path / "painted", len(PATHS))
    for painted, name in zip(sorted((tmp_path / "painted").iterdir()), PATHS, strict=True):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        painted.rename(path)
    return tmp_path / "photos"


def request(run, photos, **changes) -> Request:
    out = photos.parent / "lr=2" / "out.parquet"
    return Request(**{"run": str(run), "images": str(photos), "out": out, "batch_size": 4} | changes)


def rows(out: Path) -> tuple[list[str], np.ndarray]:
    table = pq.ParquetFile(out).read()
    values = table["features"].combine_chunks()
    return table["path"].to_pylist(), values.values.to_numpy().reshape(len(values), -1)


def crops(photos: Path, size: int) -> np.ndarray:
    return np.stack([centre_crop(np.asarray(Image.open(photos / name)), size).numpy() for name in PATHS])


def test_extract_rows_are_features_in_the_order_of_paths(run, photos):
    """Five photos in batches of 4: the last is filled up."""
    closing = extract_folder(request(run, photos))
    out = request(run, photos).out
    paths, found = rows(out)
    assert paths == PATHS
    encoder = load_encoder(run)
    assert encoder.step == 2
    np.testing.assert_allclose(found, encoder(crops(photos, 32)), rtol=1e-5, atol=1e-6)
    assert np.ptp(found, 0).max() > 0.01  # photos differ
    metadata = {key.decode(): value.decode() for key, value in pq.read_schema(out).metadata.items()}
    expected = {"run": str(run), "step": "2", "stage": "4", "pool": "mean", "image_size": "32", "num_photos": "5"}
    assert expected.items() <= metadata.items()
    assert str(pq.read_schema(out).field("features").type).startswith("fixed_size_list<element: float")
    assert "64 features of each of 5 photos" in closing and "photos/s" in closing
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.parquet"]


def test_extract_an_earlier_stage_and_step(run, photos):
    """Crops of 40 px: 20, 10 and 5 px after the stem and two stages."""
    extract_folder(request(run, photos, stage=3, image_size=40, step=1))
    encoder = load_encoder(run, 1)
    maps = np.asarray(jax.jit(encoder.stages)(encoder.variables, crops(photos, 40))[2])
    assert maps.shape == (5, 5, 5, 32)
    np.testing.assert_allclose(rows(request(run, photos).out)[1], maps.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_load_crop_equals_the_crops_of_evaluations(photos):
    """Bit for bit, from pixels instead of files."""
    for name in ("one", "two"):
        (photos / name).mkdir()
    (photos / PATHS[0]).rename(photos / "one" / "x.png")
    (photos / PATHS[2]).rename(photos / "two" / "y.png")
    (photos / "b").rename(photos.parent / "elsewhere")
    (batch,) = centre_batches(open_labelled(str(photos)), 33, 8)
    for image, name in zip(batch.images, ("one/x.png", "two/y.png"), strict=True):
        np.testing.assert_array_equal(image, centre_crop(np.asarray(Image.open(photos / name)), 33))


def test_extract_names_and_leaves_out_bad_photos(run, photos):
    (photos / "b" / "a.jpg").write_bytes(b"no photo")
    (photos / "m.jpg").symlink_to("nowhere.jpg")
    closing = extract_folder(request(run, photos))
    assert rows(request(run, photos).out)[0] == PATHS
    lines = Path(f"{request(run, photos).out}.rejected.jsonl").read_text().splitlines()
    bad = {"b/a.jpg": "not an image", "m.jpg": "unreadable file: No such file or directory"}
    assert [json.loads(line) for line in lines] == [{"id": name, "reason": reason} for name, reason in bad.items()]
    assert "of each of 5 photos, without 2 that cannot be read: b/a.jpg (not an image), m.jpg" in closing


def test_extract_refuses_a_folder_without_readable_photos(run, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 1 photos can be read, as a.jpg \(empty file\): see"):
        extract_folder(request(run, tmp_path / "photos"))
    assert [path.name for path in (tmp_path / "lr=2").iterdir()] == ["out.parquet.rejected.jsonl"]


def test_extract_resumes_to_the_same_file(run, photos, monkeypatch):
    """The power goes after the first batch of two, in the second one, and while the file is written."""
    (photos / "b-1.png").write_bytes(b"no photo")
    undisturbed = request(run, photos, out=photos.parent / "undisturbed.parquet")
    extract_folder(undisturbed)
    out, loaded, load = request(run, photos).out, [], extract.load_crop
    monkeypatch.setattr(extract, "round_batch", lambda *_: 4)  # of four devices
    monkeypatch.setattr(extract, "load_crop", lambda photo, size: loaded.append(photo.image_id) or load(photo, size))

    def stop(batches):
        yield next(batches)
        raise InterruptedError("power")

    extend = FeatureCache.extend
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"\.rows cannot be written"):
        patch.setattr(FeatureCache, "extend", lambda self, batches, name: extend(self, stop(batches), name))
        extract_folder(request(run, photos))
    (cached,) = Path(f"{out}.cache").glob("*.rows")
    cached.write_bytes(cached.read_bytes()[:-100])  # the last of four rows is cut short
    loaded.clear()
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(extract, "write_features", interrupt)
        extract_folder(request(f"{run}/", photos))  # a run by another name is the same run
    assert sorted(loaded) == PATHS[3:] and not out.exists()

    loaded.clear()
    extract_folder(request(run, photos))
    assert loaded == [] and rows(out)[0] == [name for name in PATHS if name != "b-1.png"]
    assert out.read_bytes() == undisturbed.out.read_bytes()
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.parquet", "out.parquet.rejected.jsonl"]


def interrupt(*_) -> None:
    raise InterruptedError("power")


def test_extract_keeps_a_finished_file_and_refuses_other_settings(run, photos):
    out = request(run, photos).out
    extract_folder(request(run, photos))
    before = out.read_bytes()
    assert "is finished already" in extract_folder(request(run, photos, batch_size=8))
    for changes, message in (
        ({"stage": 3}, "stage was 4 and is now 3"),
        ({"image_size": 40}, "image_size was 32 and is now 40"),
        ({"step": 1}, "step was 2 and is now 1, weights_sha256 was"),
    ):
        with pytest.raises(UserError, match=f"holds features of other settings: {message}.*; choose another --out"):
            extract_folder(request(run, photos, **changes))
    (photos / "z.png").unlink()
    with pytest.raises(UserError, match="num_photos was 5 and is now 4"):
        extract_folder(request(run, photos))
    assert out.read_bytes() == before


def test_extract_does_not_overwrite_another_file(run, photos):
    out = request(run, photos).out
    out.parent.mkdir()
    out.write_text("mine")
    with pytest.raises(UserError, match="holds no features: choose another --out"):
        extract_folder(request(run, photos))
    assert out.read_text() == "mine"
    out.rename(f"{out}.cache")
    with pytest.raises(UserError, match=r"out\.parquet\.cache.* cannot be written \(File exists\)"):
        extract_folder(request(run, photos))
    assert Path(f"{out}.cache").read_text() == "mine"


def test_extract_command_in_a_process(run, photos):
    out = request(run, photos).out
    command = [sys.executable, "-m", "univip_jax.extract", f"--run={run}", f"--images={photos}", f"--out={out}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{out}: 64 features of each of 5 photos; 5 photos in this run at ")
    assert "photo/s" in result.stderr and "Traceback" not in result.stderr
    assert rows(out)[0] == PATHS


@pytest.fixture
def own_flags():
    """The command's flags, in place of flags of the same names that other commands defined in this process."""
    others = {name: flags.FLAGS[name] for name in Request._fields if name in flags.FLAGS}
    for name in others:
        delattr(flags.FLAGS, name)
    extract._define_flags()
    yield
    for name in Request._fields:
        delattr(flags.FLAGS, name)
    for name, flag in others.items():
        flags.FLAGS[name] = flag


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--stage=5"], 2, "--stage=5: 5 is not an integer in the range [1, 4]"),
        (["--run="], 2, "--run is missing"),
        (["features.parquet"], 2, "unexpected argument 'features.parquet'"),
        (["--images=nowhere"], 1, "--images=nowhere: no such folder"),
        (["--run=nowhere"], 1, "nowhere is no run"),
        (["--step=7"], 1, "has no checkpoint of step 7"),
    ],
)
@pytest.mark.usefixtures("own_flags")
def test_extract_command_mistakes_are_one_line(run, photos, capsys, monkeypatch, arguments, code, message):
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    out = request(run, photos).out
    with pytest.raises(SystemExit) as error:
        given = ["extract", f"--run={run}", f"--images={photos}", f"--out={out}", *arguments]
        command.parse_flags(extract.NAME, extract.REQUIRED)(given)
        command.call(f"python -m {extract.NAME}", extract._work, interrupted="")
    assert error.value.code == code
    stderr = capsys.readouterr().err
    assert stderr.startswith("python -m univip_jax.extract: ") and stderr.count("\n") == 1
    assert message in stderr
    assert not out.parent.exists()


def test_two_commands_do_not_write_one_file(run, photos, tmp_path):
    request = Request(str(run), str(photos), tmp_path / "f.parquet")
    with held(tmp_path / "f.parquet.cache"), pytest.raises(TransientError, match=r"f\.parquet\.cache is in use"):
        extract_folder(request)
    assert not (tmp_path / "f.parquet.cache").exists()
