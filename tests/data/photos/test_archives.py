"""Photos in zip and tar files, against what the standard library unpacks; and every way in which one can be bad."""

import io
import os
import tarfile
import zipfile

import pytest

from univip_jax.common.errors import UserError
from univip_jax.data.photos import sources
from univip_jax.data.photos.decode import Rejected

CONTENTS = {"b.JPG": b"second", "deep/er/ä\n.png": b"third" * 1000, "a.jpg": b"first"}


def make_zip(path, contents=CONTENTS):
    with zipfile.ZipFile(path, "w") as archive:
        for index, (name, data) in enumerate(contents.items()):
            archive.writestr(name, data, [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA][index % 3])
        archive.mkdir("empty.jpg")
    return path


def make_tar(path, contents=CONTENTS, mode="w", kind=tarfile.PAX_FORMAT):
    with tarfile.open(path, mode, format=kind) as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def opened(path):
    return {photo.image_id: sources.open_photo(photo).encoded for photo in sources.find_photos(path)}


def reason(photo):
    with pytest.raises(Rejected) as error:
        sources.open_photo(photo)
    return str(error.value)


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_tar_is_read_in_place(tmp_path, kind):
    path = make_tar(
        tmp_path / "photos.tar", CONTENTS | {"./c.jpg": b"fourth", "notes.txt": b"", "._a.jpg": b""}, kind=kind
    )
    assert opened(path) == CONTENTS | {"c.jpg": b"fourth"}
    assert os.listdir(tmp_path) == ["photos.tar"]


def test_all_photos_of_joined_tars_are_read(tmp_path):
    first, second = make_tar(tmp_path / "1.tar"), make_tar(tmp_path / "2.tar", {"z.jpg": b"last", "a.jpg": b"newer"})
    (tmp_path / "both.tar").write_bytes(first.read_bytes() + second.read_bytes())
    assert opened(tmp_path / "both.tar") == CONTENTS | {"z.jpg": b"last", "a.jpg": b"newer"}


def test_tar_of_a_damaged_header_is_refused_and_not_cut_there(tmp_path):
    path = make_tar(tmp_path / "photos.tar", {"a.jpg": b"first", "b.jpg": b"second"})
    data = bytearray(path.read_bytes())
    data[data.index(b"b.jpg")] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"photos.tar cannot be read, is damaged.*damaged header at byte 1024"):
        sources.find_photos(path)


def test_zip_of_any_compression_is_read_in_place(tmp_path):
    path = make_zip(tmp_path / "photos.zip", CONTENTS | {"notes.txt": b"", "__MACOSX/._a.jpg": b"", "w\\x.jpg": b"w"})
    assert opened(path) == CONTENTS | {"w/x.jpg": b"w"}
    assert os.listdir(tmp_path) == ["photos.zip"]


class WithoutFlag(zipfile.ZipInfo):
    """A name in bytes that the archive does not call UTF-8."""

    encoding = "utf-8"

    def _encodeFilenameFlags(self):
        return self.filename.encode(self.encoding), self.flag_bits & ~0x800


def test_zip_names_that_are_utf8_without_saying_so_are_read_as_utf8(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr(WithoutFlag("Köln.jpg"), b"of a Mac")
        of_dos = WithoutFlag("Bär.jpg")
        of_dos.encoding = "cp437"
        archive.writestr(of_dos, b"of DOS")
        archive.writestr("日本.jpg", b"with the flag")
    assert opened(tmp_path / "photos.zip") == {
        "Köln.jpg": b"of a Mac",
        "Bär.jpg": b"of DOS",
        "日本.jpg": b"with the flag",
    }


def test_archive_gives_the_ids_of_an_equal_folder(tmp_path):
    for name, data in CONTENTS.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    assert opened(tmp_path / "folder") == opened(make_zip(tmp_path / "photos.zip"))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_archive_members_whose_names_lead_out_are_rejected(tmp_path, make):
    unsafe = {"../x.jpg": b"x", "a/../../x.jpg": b"x", "/x.jpg": b"x", "C:/x.jpg": b"x"}
    found = {photo.image_id: photo for photo in sources.find_photos(make(tmp_path / "archive", CONTENTS | unsafe))}
    assert set(found) == set(CONTENTS) | set(unsafe)
    assert all(reason(found[name]) == "unsafe name: it leads out of the archive" for name in unsafe)
    assert os.listdir(tmp_path) == ["archive"]


def test_tar_links_are_followed_or_rejected(tmp_path):
    with tarfile.open(make_tar(tmp_path / "photos.tar", {"x/a.jpg": b"first"}), "a") as archive:
        for name, kind, target in [
            ("hard.jpg", tarfile.LNKTYPE, "x/a.jpg"),
            ("x/soft.jpg", tarfile.SYMTYPE, "../hard.jpg"),
            ("x/lost.jpg", tarfile.SYMTYPE, "../../outside.jpg"),
            ("circle.jpg", tarfile.SYMTYPE, "circle.jpg"),
            ("pipe.jpg", tarfile.FIFOTYPE, ""),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    found = {photo.image_id: photo for photo in sources.find_photos(tmp_path / "photos.tar")}
    assert [sources.open_photo(found[name]).encoded for name in ("x/a.jpg", "hard.jpg", "x/soft.jpg")] == [b"first"] * 3
    assert reason(found["x/lost.jpg"]) == "a link to what the archive does not hold"
    assert {reason(found[name]) for name in ("circle.jpg", "pipe.jpg")} == {"not a regular file"}


def test_archive_takes_the_last_of_two_members_with_one_name(tmp_path):
    with tarfile.open(make_tar(tmp_path / "photos.tar"), "a") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"new"))
    assert opened(tmp_path / "photos.tar")["a.jpg"] == b"new"


def test_zip_members_damaged_or_encrypted_are_rejected(tmp_path):
    path = make_zip(tmp_path / "photos.zip", {"a.jpg": b"first", "b.jpg": b"second"})
    data = bytearray(path.read_bytes())
    data[data.index(b"first")] ^= 1
    with zipfile.ZipFile(path) as archive:
        central = archive.start_dir
    second = data.index(b"PK\x01\x02", central + 4)
    data[second + 8] |= 1  # says that it is encrypted
    data[data.index(b"PK\x03\x04", 4) + 6] |= 1
    path.write_bytes(data)
    damaged, encrypted = sources.find_photos(path)
    assert reason(damaged) == "unreadable member: Bad CRC-32"
    assert "encrypted" in reason(encrypted)


def test_tar_cut_short_after_its_listing_is_rejected(tmp_path):
    path = make_tar(tmp_path / "photos.tar", {"a.jpg": b"first", "b.jpg": b"x" * 100_000})
    first, second = sources.find_photos(path)
    os.truncate(path, 50_000)
    assert sources.open_photo(first).encoded == b"first"
    assert reason(second) == "unreadable member: the archive ends before it"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: make_tar(path, mode="w:gz"), "no zip or uncompressed tar file"),
        (lambda path: path.write_bytes(b"text"), "is no zip or uncompressed tar file"),
        (lambda path: os.truncate(make_tar(path), 2000), "damaged"),
        (lambda path: make_tar(path, {"a.txt": b""}), "has no photos"),
    ],
)
def test_unreadable_archives_are_one_line(tmp_path, make, words):
    make(tmp_path / "photos.tar")
    with pytest.raises(UserError, match=words) as error:
        sources.find_photos(tmp_path / "photos.tar")
    assert f"--images={tmp_path / 'photos.tar'}" in str(error.value) and "\n" not in str(error.value)


def test_archive_without_read_permission_is_one_line(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "photos.zip")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    with pytest.raises(UserError, match=r"photos.zip cannot be read.*Permission denied"):
        sources.find_photos(path)
