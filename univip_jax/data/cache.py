"""Whole shards of a bucket's data set on this machine, so that epochs after the first read a disk."""

import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import UserError
from univip_jax.common.files import appearing, sha256_of
from univip_jax.data.host import tf
from univip_jax.data.records import Dataset
from univip_jax.data.tfrecord import unframed

_SHA256 = re.compile("[0-9a-f]{64}")  # a name of a file here: nothing else may come from a bucket
_LEFT = 3600.0  # s without a write, after which a temporary file is nobody's


class ShardCache:
    """Fetches the shards of a data set, one after the other, as long as there is room.

    A file is named by the sha256 of its contents, which is verified before the name appears; several processes and data
    sets may share the folder. Those of other data sets make room, the oldest first.
    """

    def __init__(self, dataset: Dataset, folder: Path, gigabytes: float):
        """Raises UserError: the folder cannot be made, or the manifest has no digests."""
        self._folder, self._most = folder, int(gigabytes * 1e9)
        self._entries, self._root = dataset.manifest["shards"], dataset.root
        if odd := [entry["name"] for entry in self._entries if not _SHA256.fullmatch(str(entry["sha256"]))]:
            raise UserError(f"{dataset.root}: the manifest's sha256 of {odd[0]} is none: prepare the data set again")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.cache={folder} cannot be made ({error.strerror}): choose another") from error
        for left in self._folder.glob("*.tmp"):  # of a process that was killed
            if time.time() - left.stat().st_mtime > _LEFT:
                left.unlink(missing_ok=True)
        self._there = [self._is_whole(entry) for entry in self._entries]
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Begins to fetch what is missing, in a thread that ends with the process."""
        with self._lock:
            if self._thread is None and not all(self._there):
                self._thread = threading.Thread(target=self._fetch_all, daemon=True)
                self._thread.start()

    def has(self, shard: int) -> bool:
        """Whether a shard is here by now."""
        return self._there[shard]

    def read(self, shard: int, start: int, size: int) -> bytes | None:
        """A record of a shard; None where the disk does not give what was written: from then on it is not used."""
        path = self._path(self._entries[shard])
        try:
            with open(path, "rb") as file:
                return unframed(os.pread(file.fileno(), size, start), str(path))
        except (OSError, tf.errors.DataLossError) as error:
            if self._there[shard]:
                print(f"data.cache: {error}; the bucket's is read from now on", file=sys.stderr)
            self._there[shard] = False
            if isinstance(error, tf.errors.DataLossError):
                path.unlink(missing_ok=True)
            return None

    def _path(self, entry: dict) -> Path:
        return self._folder / f"{entry['sha256']}.tfrecord"

    def _is_whole(self, entry: dict) -> bool:
        path = self._path(entry)
        try:
            return path.stat().st_size == entry["bytes"]
        except FileNotFoundError:
            return False

    def _fetch_all(self) -> None:
        try:
            for shard, entry in enumerate(self._entries):
                if not self._there[shard] and not self._is_whole(entry):
                    if not self._make_room(entry["bytes"]):
                        gigabytes = sum(entry["bytes"] for entry in self._entries) / 1e9
                        print(
                            f"data.cache is full: {sum(self._there)} of {len(self._entries)} shards are in "
                            f"{self._folder}; the others are read from the bucket. All fit by "
                            f"--config.data.cache_gb={gigabytes + 1:.0f}",
                            flush=True,
                        )
                        return
                    self._fetch(entry)
                self._there[shard] = True
        except (OSError, UserError) as error:
            print(f"data.cache: {error}; the shards that are not in it are read from the bucket", file=sys.stderr)

    def _fetch(self, entry: dict) -> None:
        source = self._root / entry["name"]
        with appearing(self._path(entry)) as tmp:
            source.fs.get_file(str(source), str(tmp))
            if sha256_of(tmp) != entry["sha256"]:
                raise UserError(f"{source} is not what the manifest says: python -m data_prep --check={self._root}")

    def _make_room(self, needed: int) -> bool:
        """Removes files of other data sets until `needed` bytes fit; False: they do not."""
        mine = {self._path(entry).name for entry in self._entries}
        files = [path for path in self._folder.glob("*.tfrecord") if path.is_file()]
        used = sum(path.stat().st_size for path in files)
        others = sorted((path for path in files if path.name not in mine), key=lambda path: path.stat().st_mtime)
        for path in others:
            if used + needed <= self._most:
                break
            used -= path.stat().st_size
            path.unlink(missing_ok=True)
        return used + needed <= self._most


def with_cache(dataset: Dataset, data: Any) -> Dataset:
    """The data set with the cache that `config.data` asks for, if any; says where it is not used.

    Raises UserError: it is no folder of this machine, or cannot be made.
    """
    if not data.cache:
        return dataset
    if is_bucket(data.cache):
        raise UserError(f"data.cache={data.cache} must be a folder of this machine")
    if not is_bucket(dataset.root):
        print(f"data.cache={data.cache} is not used: {dataset.root} is on this machine already", flush=True)
        return dataset
    return dataset._replace(cache=ShardCache(dataset, Path(data.cache), data.cache_gb))
