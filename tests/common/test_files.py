"""Files that appear whole or not at all, and names in messages."""

import errno
import os

import pytest

from univip_jax.common import files
from univip_jax.common.errors import UserError, shorten


def test_appearing_replaces_the_file_only_where_nothing_raised(tmp_path):
    path = tmp_path / "a.json"
    files.write_whole(path, "first")
    with pytest.raises(KeyboardInterrupt), files.appearing(path) as tmp:
        tmp.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    with files.appearing(path) as tmp:
        tmp.write_text("second")
        assert path.read_text() == "first"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "second")]


def test_write_whole_on_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files.write_whole(tmp_path / "a.json", "first")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.json cannot be written \(No space left on device\): free space"):
        files.write_whole(tmp_path / "a.json", "second", sync=True)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "first")]


def test_sha256_of_a_file_is_the_published_digest_of_abc(tmp_path):
    files.write_whole(tmp_path / "a", b"abc")
    assert files.sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(("count", "words"), [(0, ""), (1, "a"), (3, "a, b, c"), (5, "a, b, c and 2 more")])
def test_shorten_gives_three_names_and_the_number_of_the_rest(count, words):
    assert shorten(list("abcde")[:count]) == words
