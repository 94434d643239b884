"""A folder and a zip of everything that goes wrong: each photo is used, or rejected with its reason."""

import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data_prep.command import exit_code
from tests.data_prep.painted import paint
from univip_jax.data import records

REJECTED = {
    "torture/zero.jpg": "empty file",
    "torture/text.jpg": "not an image",
    "torture/truncated.jpg": "damaged: ",
    "torture/bomb.png": "too large: 30000 x 30000 is over 100 megapixels",
    "torture/loop.jpg": "unreadable file: Too many levels of symbolic links",
    "torture/dangling.jpg": "unreadable file: No such file or directory",
    "torture/closed.jpg": "unreadable file: Permission denied",
    "torture/pipe.jpg": "not a regular file",
    "photos/../evil.jpg": "unsafe name: it leads out of the archive",
    "photos//evil.jpg": "unsafe name: it leads out of the archive",
}
USED = {  # height and width as stored, kind
    "torture/cmyk.jpg": (96, 120, "JPEG"),
    "torture/16bit.png": (64, 80, "PNG"),
    "torture/palette.png": (96, 120, "PNG"),
    "torture/animated.gif": (96, 120, "JPEG"),
    "torture/one.png": (1, 1, "PNG"),
    "torture/thin.png": (4000, 3, "PNG"),
    "torture/exif.JPG": (120, 96, "JPEG"),
    "torture/ünï\ncode ☃.jpg": (96, 120, "JPEG"),
    "torture/twin_1.jpg": (96, 120, "JPEG"),
    "torture/twin_2.jpg": (96, 120, "JPEG"),
    "torture/directory.jpg/inside.jpg": (96, 120, "JPEG"),
    "photos/good.jpg": (96, 120, "JPEG"),
}


def write_bomb(path):
    """A PNG of 30,000 x 30,000 black pixels, 1 bit each, in about 110 kB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(300 * (1 + 30_000 // 8))) for _ in range(100)) + packer.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    folder = root / "torture"
    (folder / "directory.jpg").mkdir(parents=True)
    for name in ("ünï\ncode ☃.jpg", "directory.jpg/inside.jpg", "twin_1.jpg", "truncated.jpg", "closed.jpg"):
        paint(len(name)).save(folder / name)
    (folder / "twin_2.jpg").write_bytes((folder / "twin_1.jpg").read_bytes())
    os.truncate(folder / "truncated.jpg", (folder / "truncated.jpg").stat().st_size // 2)
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("Not a photo at all.")
    paint(1).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.linspace(0, 65535, 64 * 80).reshape(64, 80).astype(np.uint16)).save(folder / "16bit.png")
    paint(2).convert("P").save(folder / "palette.png")
    paint(3).save(folder / "animated.gif", save_all=True, append_images=[paint(4), paint(5)])
    paint(6).crop((0, 0, 1, 1)).save(folder / "one.png")
    paint(7, 9, 4000).crop((0, 0, 3, 4000)).save(folder / "thin.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    paint(8).save(folder / "exif.JPG", exif=exif)
    write_bomb(folder / "bomb.png")
    (folder / "circle").symlink_to(folder)
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "dangling.jpg").symlink_to("gone.jpg")
    os.mkfifo(folder / "pipe.jpg")
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        archive.write(folder / "twin_1.jpg", "good.jpg")
        archive.write(folder / "twin_1.jpg", "../evil.jpg")
        archive.writestr(zipfile.ZipInfo("/evil.jpg"), b"x")
    return root


@pytest.fixture
def run(root, monkeypatch):
    """Runs the command in this process, with a photo that the user has no right to read; gives its exit code."""
    read_bytes = Path.read_bytes

    def read(path):
        if path.name == "closed.jpg":  # root may read everything: this is what others would see
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)

    def run(*flags):
        sources = [f"--images={root / name}" for name in ("torture", "photos.zip")]
        given = sources if not str(flags[0]).startswith("--check") else []
        return exit_code(*given, *flags, "--num_workers=1")

    return run


def paths_outside(root, out):
    """All paths beside the tests' folders, but for those in `out`."""
    return sorted(str(path) for path in root.parent.rglob("*") if out not in (path, *path.parents))


def test_every_file_is_used_or_rejected_with_its_reason(root, run, tmp_path, capsys):
    out = tmp_path / "out"
    before = paths_outside(root, out)
    assert run(f"--out={out}", "--min_side=16") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "10 of 22 photos (45.5%) cannot be used, more than --max_rejected=0.1 allows" in line
    shards = {path: path.stat().st_mtime_ns for path in out.glob("photos-*")}
    assert shards and not (out / records.MANIFEST).exists()

    assert run(f"--out={out}", "--min_side=16", "--max_rejected=0.5") == 0
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert run(f"--check={out}") == 0
    reasons = {one["id"]: one["reason"] for one in map(json.loads, (out / "rejected.jsonl").read_text().splitlines())}
    assert sorted(reasons) == sorted(REJECTED)
    assert {name: reason for name, reason in reasons.items() if not reason.startswith(REJECTED[name])} == {}

    dataset = records.open_dataset(out)
    parsed = [records.parse(one) for shard in dataset.shards for one in records.read_shard(shard)]
    found = {
        one["id"].numpy().decode(): (one["height"], one["width"], kind_of(one["encoded"].numpy())) for one in parsed
    }
    assert found == USED and len(parsed) == len(USED)
    twins = [one["encoded"].numpy() for one in parsed if b"twin" in one["id"].numpy()]
    assert twins[0] == twins[1]
    assert paths_outside(root, out) == before


def kind_of(encoded):
    return {b"\xff\xd8": "JPEG", b"\x89P": "PNG"}[encoded[:2]]


def test_max_rejected_is_exact(root, run, tmp_path):
    assert run(f"--out={tmp_path}", "--proposals=none", f"--max_rejected={9.9 / 22}") == 1
    assert run(f"--out={tmp_path}", "--proposals=none", f"--max_rejected={10 / 22}") == 0
