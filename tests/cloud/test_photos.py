"""Photos in buckets: what a listing and a reader find on a disk, by few requests and few bytes."""

import hashlib
import io
import os
import tarfile
import time
import zipfile
from collections import Counter

import pytest

from tests.data_prep.painted import paint
from univip_jax.common.errors import TransientError, UserError
from univip_jax.common.files import at
from univip_jax.data.photos import sources
from univip_jax.data.photos.decode import Rejected
from univip_jax.data.photos.sources import find_photos, list_sources, open_photo, photos_digest, prefixes

NAMES = ["b.jpg", "deep/a.JPEG", "deep/ü #1[2]*?.png", "deep/er/c.jpg", "notes.txt", "deep/list.csv"]
HIDDEN = [".x/a.jpg", "@eaDir/a.jpg", "deep/.a.jpg", "Thumbs.db"]


def upload(folder, address):
    """Copies a folder into a bucket, all files at once."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    to = at(address)
    to.fs.pipe({f"{address}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths})
    return address


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    for number, name in enumerate([*NAMES, *HIDDEN]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(100 + number))
    return root


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A zip and a tar with 40 photos of 20 kB of noise each, the zip's last one of zeros and compressed."""
    root = tmp_path_factory.mktemp("archives")
    contents = {f"deep/{n:02d}.jpg": os.urandom(20_000) for n in range(39)} | {"last.png": bytes(50_000)}
    with zipfile.ZipFile(root / "a.zip", "w") as made, tarfile.open(root / "b.tar", "w") as tar:
        for name, data in contents.items():
            made.writestr(name, data, zipfile.ZIP_DEFLATED if name == "last.png" else zipfile.ZIP_STORED)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        made.writestr("../evil.jpg", b"x")
    return root


def told(photos):
    """What the shards depend on."""
    return [(photo.image_id, photo.num_bytes, photo.kind, photo.position) for photo in photos]


def test_a_folder_is_listed_as_on_a_disk_by_one_request(folder, bucket, servers):
    upload(folder, f"{bucket}/photos")
    at(f"{bucket}/photos/empty/").fs.pipe_file(f"{bucket}/photos/empty.jpg/", b"")  # how consoles make a folder
    wanted = list_sources([folder])
    faults = getattr(servers, bucket[:2]).faults
    before = faults.num_requests
    found = list_sources([f"{bucket}/photos"])
    assert faults.num_requests - before <= 4  # is it a folder, and what is in it
    assert told(found.photos) == told(wanted.photos) and len(found.photos) == 4
    assert found.passed_over == wanted.passed_over == Counter({".txt": 1, ".csv": 1})
    assert photos_digest(found.photos) == photos_digest(wanted.photos)
    for photo, on_disk in zip(found.photos, wanted.photos, strict=True):
        assert photo.path == f"{bucket}/photos/{photo.image_id}"
        assert open_photo(photo).encoded == (folder / on_disk.path).read_bytes()


def test_several_sources_have_the_prefixes_of_a_disk(folder, archives, bucket):
    upload(folder, f"{bucket}/folder")
    upload(archives, bucket)
    here = [folder, archives / "a.zip", archives / "b.tar"]
    there = [f"{bucket}/folder", f"{bucket}/a.zip", f"{bucket}/b.tar"]
    names = prefixes(there)
    assert names == ["folder/", "a/", "b/"] and prefixes([folder, there[1]]) == [f"{folder.name}/", "a/"]
    renamed = [one.image_id.replace(f"{folder.name}/", "folder/", 1) for one in list_sources(here).photos]
    assert [one.image_id for one in list_sources(there).photos] == sorted(renamed)
    with pytest.raises(UserError, match=f"--images={bucket}/a.zip is given twice"):
        prefixes([there[1], f"{bucket}/b.tar", there[1]])
    with pytest.raises(UserError, match=f"--images={bucket}/none: no such folder or file"):
        find_photos(f"{bucket}/none")


@pytest.mark.parametrize("name", ["a.zip", "b.tar"])
def test_archives_are_read_by_their_own_bytes(archives, bucket, servers, name):
    upload(archives, bucket)
    faults, size = getattr(servers, bucket[:2]).faults, (archives / name).stat().st_size
    wanted = find_photos(archives / name)
    faults.num_bytes = 0
    found = find_photos(f"{bucket}/{name}")
    assert told(found) == told(wanted) and {photo.path for photo in found[1:]} == {f"{bucket}/{name}"}
    # The end of a zip, which is less than 70 kB with its directory; a tar once, and its first bytes.
    assert faults.num_bytes < (300_000 if name == "a.zip" else 1.3 * size + 100_000)
    good = [pair for pair in zip(found, wanted, strict=True) if pair[0].kind != "refused"]
    assert len(good) == 40
    open_photo(good[0][0])  # a zip's directory is read once in each process
    for photo, on_disk in good:
        before, requests = faults.num_bytes, faults.num_requests
        assert open_photo(photo).encoded == open_photo(on_disk).encoded
        assert faults.num_requests - requests == 1
        assert faults.num_bytes - before <= photo.num_bytes + 100


def test_damage_has_the_reasons_of_a_disk(bucket, tmp_path):
    paint(1).save(tmp_path / "a.jpg")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        for name in ("flipped.png", "locked.png", "whole.png"):
            made.writestr(name, bytes(range(256)) * 99)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[60] ^= 255
    locked = data.rindex(b"locked.png") - 46  # of the directory; bit 0 of the flags says that it is encrypted
    data[locked + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with tarfile.open(tmp_path / "b.tar", "w") as made:
        made.add(tmp_path / "a.jpg", "a.jpg")
    upload(tmp_path, bucket)
    for name in ("a.zip", "b.tar"):
        pairs = list(zip(find_photos(f"{bucket}/{name}"), find_photos(tmp_path / name), strict=True))
        if name == "b.tar":  # cut short after it was listed
            at(f"{bucket}/b.tar").write_bytes(data[:700])
            (tmp_path / "b.tar").write_bytes(data[:700])
        reasons = []
        for pair in pairs:
            for photo in pair:
                try:
                    reasons.append(hashlib.sha256(open_photo(photo).encoded).hexdigest())
                except Rejected as error:
                    reasons.append(str(error))
        assert reasons[::2] == reasons[1::2] and sum("unreadable" in reason for reason in reasons) in (4, 2)


def test_an_object_that_is_gone_is_rejected_and_a_network_never(gs, servers, monkeypatch):
    path = at(gs) / "photos" / "a.jpg"
    path.write_bytes(b"x" * 10)
    (photo,) = find_photos(f"{gs}/photos")
    path.unlink()
    with pytest.raises(Rejected, match=r"^unreadable file: No such file or directory$"):
        open_photo(photo)
    before = servers.gs.faults.num_requests
    with pytest.raises(Rejected, match="too large: 2000000000 bytes are over"):
        open_photo(photo._replace(num_bytes=2_000_000_000))
    assert servers.gs.faults.num_requests == before  # nothing is downloaded

    async def at_once(_):
        pass

    monkeypatch.setattr("gcsfs.retry.asyncio.sleep", at_once)
    servers.gs.faults.gone_until = time.monotonic() + 60
    for kind in ("file", "tar", "zip"):
        with pytest.raises(TransientError, match=r"gs://bucket/.* cannot be reached"):
            open_photo(photo._replace(kind=kind))
    servers.gs.reset()
    servers.gs.faults.forbidden = True
    with pytest.raises(UserError, match=r"gs://bucket/.* is closed to you"):
        sources.find_photos(f"{gs}/photos")
