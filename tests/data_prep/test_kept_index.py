"""The kept list of names: used while folders and archives stay as they are, and made anew where they change."""

import json
import os
import zipfile

import pytest

from data_prep import index
from univip_jax.data.photos import sources


@pytest.fixture
def folder(tmp_path):
    """Two folders with a photo each, which have not changed for a minute."""
    root = tmp_path / "photos"
    (root / "deep").mkdir(parents=True)
    for name in ("a.jpg", "deep/b.jpg"):
        (root / name).write_bytes(b"x")
    settle(root / "deep", root)
    return root


def settle(*folders):
    for path in folders:
        os.utime(path, ns=(1, os.stat(path).st_mtime_ns - 60 * 10**9))


@pytest.fixture
def listed(monkeypatch):
    """The sources that were listed, in the order in which they were."""
    calls = []

    def list_source(source):
        calls.append(source)
        return sources.list_source(source)

    monkeypatch.setattr(index, "list_source", list_source)
    return calls


def entries(made):
    return [sorted(listing.entries) for listing in made.listings]


def test_a_second_run_lists_nothing_and_finds_the_same(folder, tmp_path, listed):
    first = index.Index([folder], tmp_path)
    first.keep(tmp_path)
    kept = (tmp_path / "index.json").read_bytes()
    second = index.Index([folder], tmp_path)
    second.keep(tmp_path)
    assert listed == [folder] and entries(second) == entries(first)
    assert (tmp_path / "index.json").read_bytes() == kept
    assert str(folder).encode() not in kept and sorted(os.listdir(tmp_path)) == ["index.json", "photos"]


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "folder gone"])
def test_a_changed_folder_is_listed_anew(folder, tmp_path, listed, change):
    index.Index([folder], tmp_path).keep(tmp_path)
    photo = folder / "deep/b.jpg"
    if change == "added":
        (folder / "deep/c.jpg").write_bytes(b"x")
    elif change == "renamed":
        photo.rename(folder / "deep/z.jpg")
    else:
        photo.unlink()
    if change == "folder gone":
        photo.parent.rmdir()
    again = index.Index([folder], tmp_path)
    assert listed == [folder, folder]
    assert entries(again) == [sorted(sources.list_source(folder).entries)]


def test_a_folder_that_changed_just_before_it_was_listed_is_not_trusted(folder, tmp_path, listed):
    (folder / "c.jpg").write_bytes(b"x")
    index.Index([folder], tmp_path).keep(tmp_path)
    index.Index([folder], tmp_path)
    assert listed == [folder, folder]


def test_a_photo_overwritten_in_place_is_not_noticed_until_the_index_is_deleted(folder, tmp_path):
    index.Index([folder], tmp_path).keep(tmp_path)
    (folder / "a.jpg").write_bytes(b"longer")
    assert entries(index.Index([folder], tmp_path))[0][0].num_bytes == 1
    (tmp_path / "index.json").unlink()
    assert entries(index.Index([folder], tmp_path))[0][0].num_bytes == 6


def test_only_the_source_that_changed_is_listed_anew(folder, tmp_path, listed):
    archive = tmp_path / "more.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../b.jpg", b"x")
    settle(archive)
    index.Index([folder, archive], tmp_path).keep(tmp_path)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("c.jpg", b"x")
    again = index.Index([archive, folder], tmp_path)  # the order of the flags does not matter
    assert listed == [folder, archive, archive]
    assert [len(found) for found in entries(again)] == [2, 2]
    assert entries(again)[0][0].reason.startswith("unsafe name")


@pytest.mark.parametrize("damage", ["{", "[]", json.dumps({"version": 1, "sources": [{"source": "x"}]})])
def test_a_damaged_index_is_made_anew(folder, tmp_path, listed, damage):
    (tmp_path / "index.json").write_text(damage)
    made = index.Index([folder], tmp_path)
    made.keep(tmp_path)
    assert listed == [folder]
    assert entries(index.Index([folder], tmp_path)) == entries(made) and listed == [folder]
