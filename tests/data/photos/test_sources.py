"""Which photos a source has, under which ids, and how each is opened."""

import os

import pytest

from univip_jax.common.errors import UserError
from univip_jax.data.photos import sources
from univip_jax.data.photos.decode import Rejected


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def ids(found):
    return [photo.image_id for photo in found]


def test_photos_are_found_in_all_folders_by_suffix_in_any_case_and_sorted(tmp_path):
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


def test_of_two_ways_to_a_folder_the_first_by_name_is_taken(tmp_path):
    touch(tmp_path, "z/real/a.jpg")
    (tmp_path / "b").symlink_to("z/real")
    (tmp_path / "y").symlink_to("z/real")
    assert ids(sources.find_photos(tmp_path)) == ["b/a.jpg"]


def test_a_broken_link_is_kept_and_rejected_when_it_is_opened(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    photo = sources.find_photos(tmp_path)[1]
    assert photo.num_bytes == -1
    with pytest.raises(Rejected, match="unreadable file: No such file"):
        sources.open_photo(photo)


def test_a_name_that_is_no_utf8_gets_an_id_of_its_own_and_can_be_opened(tmp_path):
    for byte in (b"\xfe", b"\xff"):
        with open(os.fsencode(tmp_path) + b"/" + byte + b".jpg", "wb") as file:
            file.write(byte)
    found = sources.find_photos(tmp_path)
    assert ids(found) == ["\\xfe.jpg", "\\xff.jpg"]
    assert [sources.open_photo(photo).encoded for photo in found] == [b"\xfe", b"\xff"]


def test_a_folder_without_the_right_to_list_it_is_counted_and_named(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "closed/b.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    _, closed = sources.find_photos(tmp_path)
    assert closed.image_id == "closed"
    with pytest.raises(Rejected, match="unreadable folder: Permission denied"):
        sources.open_photo(closed)


@pytest.mark.parametrize(("name", "words"), [("nowhere", "no such folder"), ("", "has no photos")])
def test_a_folder_without_photos_is_named(tmp_path, name, words):
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


def test_a_file_larger_than_any_photo_is_rejected_unread(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(sources.MAX_BYTES + 1)  # a hole: no space is used
    (photo,) = sources.find_photos(tmp_path)
    with pytest.raises(Rejected, match="too large: 1073741825 bytes"):
        sources.open_photo(photo)


def test_the_digest_tells_names_and_sizes_apart():
    one = sources.PhotoFile("a.jpg", "/x/a.jpg", 5)
    assert sources.photos_digest([one]) == sources.photos_digest([one._replace(path="/y/a.jpg")])
    assert sources.photos_digest([one]) != sources.photos_digest([one._replace(num_bytes=6)])
