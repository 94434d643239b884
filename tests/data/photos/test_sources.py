"""Which photos a source has, under which ids, and how each is opened."""

import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from univip_jax.common.errors import UserError
from univip_jax.data.photos import SUFFIXES, sources
from univip_jax.data.photos.decode import Rejected


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def ids(found):
    return [photo.image_id for photo in found]


def test_photos_are_found_in_all_folders_by_suffix_and_sorted(tmp_path):
    touch(tmp_path, "b.JPG", "a/z.png", "a/b/c.Jpeg", "notes.txt", ".hidden.jpg", ".cache/x.jpg", "a.webp")
    found = sources.find_photos(tmp_path)
    assert ids(found) == ["a.webp", "a/b/c.Jpeg", "a/z.png", "b.JPG"]
    assert [photo.num_bytes for photo in found] == [1, 1, 1, 1]
    assert [sources.open_photo(photo) for photo in found] == [(b"x", None)] * 4


def test_links_to_folders_are_followed_and_circles_end(tmp_path):
    touch(tmp_path, "real/a.jpg")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "circle").symlink_to(tmp_path / "images")
    assert ids(sources.find_photos(tmp_path / "images")) == ["link/a.jpg"]


def test_folder_with_two_links_is_listed_under_the_first_by_name(tmp_path):
    touch(tmp_path, "z/real/a.jpg")
    (tmp_path / "b").symlink_to("z/real")
    (tmp_path / "y").symlink_to("z/real")
    assert ids(sources.find_photos(tmp_path)) == ["b/a.jpg"]


def test_broken_link_is_listed_and_rejected_on_opening(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    photo = sources.find_photos(tmp_path)[1]
    assert photo.num_bytes == -1
    with pytest.raises(Rejected, match="unreadable file: No such file"):
        sources.open_photo(photo)


def test_name_that_is_no_utf8_gets_its_own_id(tmp_path):
    for byte in (b"\xfe", b"\xff"):
        with open(os.fsencode(tmp_path) + b"/" + byte + b".jpg", "wb") as file:
            file.write(byte)
    found = sources.find_photos(tmp_path)
    assert ids(found) == ["\\xfe.jpg", "\\xff.jpg"]
    assert [sources.open_photo(photo).encoded for photo in found] == [b"\xfe", b"\xff"]


def test_folder_without_permission_is_listed_and_rejected(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "closed/b.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    _, closed = sources.find_photos(tmp_path)
    assert closed.image_id == "closed"
    with pytest.raises(Rejected, match="unreadable folder: Permission denied"):
        sources.open_photo(closed)


def test_files_of_other_formats_are_counted_by_suffix(tmp_path):
    touch(tmp_path, "folder/a.jpg", "folder/b.CR2", "folder/x/c.cr2", "folder/x/d.mov", "folder/Makefile")
    touch(tmp_path, "folder/.hidden.cr2", "folder/.cache/e.cr2")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name in ("a.jpg", "b.cr2", ".hidden.cr2", "folder.cr2/"):
            archive.writestr(name, b"x")
    listing = sources.list_sources([tmp_path / "folder", tmp_path / "photos.zip"])
    assert ids(listing.photos) == ["folder/a.jpg", "photos/a.jpg"]
    assert listing.passed_over == {".cr2": 3, ".mov": 1, "without suffix": 1}
    line = sources.passed_over_line(listing.passed_over)
    assert line.startswith("passed over 5 files of other formats: 3 .cr2, 1 ")
    assert sources.passed_over_line(Counter()) == ""
    many = Counter({f".{letter}": 9 - number for number, letter in enumerate("abcdefgh")})
    assert sources.passed_over_line(many).endswith(": 9 .a, 8 .b, 7 .c, 6 .d, 5 .e, 4 .f and 2 more")


SYSTEMS = ["__MACOSX/a.jpg", "x/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/a.jpg", "$RECYCLE.BIN/a.jpg", "._a.jpg"]
SYSTEMS += ["System Volume Information/a.jpg", ".ipynb_checkpoints/a.jpg", "x/Thumbs.db", "desktop.ini", ".DS_Store"]


def test_what_systems_leave_behind_is_left_out_and_not_counted(tmp_path):
    touch(tmp_path, *(f"folder/{name}" for name in ("a.jpg", *SYSTEMS)))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name in ("a.jpg", *SYSTEMS):
            archive.writestr(name, b"x")
    listing = sources.list_sources([tmp_path / "folder", tmp_path / "photos.zip"])
    assert ids(listing.photos) == ["folder/a.jpg", "photos/a.jpg"]
    assert not listing.passed_over


def test_all_suffixes_of_photos_are_found_and_listed_in_the_docs(tmp_path):
    suffixes = "jpg jpeg jpe jfif png webp tif tiff heic heif avif gif bmp jp2 ppm".split()  # noqa: SIM905
    touch(tmp_path, *(f"{index}.{suffix}" for index, suffix in enumerate([*suffixes, *map(str.upper, suffixes)])))
    assert len(sources.find_photos(tmp_path)) == 2 * len(suffixes)
    page = " ".join((Path(__file__).parents[3] / "docs/data.md").read_text().split())
    assert f"end in `{' '.join(SUFFIXES)}`".replace("\n", " ") in page


@pytest.mark.parametrize(
    ("name", "words"), [("nowhere", "no such folder"), ("", r"has no photos .* passed over 1 files .*: 1 \.txt$")]
)
def test_source_without_photos_is_named(tmp_path, name, words):
    touch(tmp_path, "notes.txt")
    with pytest.raises(UserError, match=words) as error:
        sources.find_photos(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_ids_of_several_sources_begin_with_their_names(tmp_path):
    touch(tmp_path, "train/1.jpg", "other/train/1.jpg", "unlabeled/1.jpg")
    found = sources.list_sources([tmp_path / "train", tmp_path / "other/train", tmp_path / "unlabeled"]).photos
    assert ids(found) == ["train-2/1.jpg", "train/1.jpg", "unlabeled/1.jpg"]
    assert found[0].path == str(tmp_path / "other/train/1.jpg")
    with pytest.raises(UserError, match="train is given twice"):
        sources.list_sources([tmp_path / "train", tmp_path / "other" / ".." / "train"])


def test_file_over_1_gib_is_rejected_unread(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(sources.MAX_BYTES + 1)  # a hole: no space is used
    (photo,) = sources.find_photos(tmp_path)
    with pytest.raises(Rejected, match="too large: 1073741825 bytes"):
        sources.open_photo(photo)


def test_photos_digest_depends_on_names_and_sizes():
    one = sources.PhotoFile("a.jpg", "/x/a.jpg", 5)
    assert sources.photos_digest([one]) == sources.photos_digest([one._replace(path="/y/a.jpg")])
    assert sources.photos_digest([one]) != sources.photos_digest([one._replace(num_bytes=6)])
