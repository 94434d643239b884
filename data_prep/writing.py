"""Several processes on one folder: one command fills it, and left-over files of killed processes are removed.

The command locks the folder (flock); temporary files are locked by their writers, on whatever machine. On a file system
without locks, left-over files stay and nothing stops a second command; finished files are whole all the same.

In a bucket there is no lock. Each shard appears by one put, then its sidecar, so none is seen half; two equal commands
write the same bytes, and cost only time. Of two different ones, each takes the other's shards for unfinished and does
them again; the later manifest fits only its own, and who opens the data set is told.
"""

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import TransientError
from univip_jax.common.files import lock

_TMP_NAME = re.compile(r".+\.[0-9a-f]{32}\.tmp")
_TMP_SHARD = re.compile(r"photos-\d{5}-of-\d{5}\.tfrecord\.[0-9a-f]{32}\.tmp")


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files whose writer is dead; files of living writers stay.

    Those of a bucket lie on this machine, beside files of all kinds: there only shards are removed.
    """
    pattern = _TMP_SHARD if is_bucket(folder) else _TMP_NAME
    folder = Path(tempfile.gettempdir()) if is_bucket(folder) else folder
    for name in filter(pattern.fullmatch, os.listdir(folder)):
        try:
            with open(folder / name, "rb+") as file:
                if lock(file.fileno(), fcntl.LOCK_EX):
                    os.unlink(folder / name)
        except (FileNotFoundError, PermissionError):  # its writer has just finished, or is another user
            continue


@contextmanager
def locked(folder: Path, shared: bool) -> Iterator[None]:
    """Locks the folder for this command, or for several that share it, until the block or the process ends.

    A bucket's folder is not locked.

    Raises TransientError: another command has the lock.
    """
    if is_bucket(folder):
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if lock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX) is False:
            raise TransientError(
                f"{folder} is in use: another data_prep works on it; wait for its end, stop it, or choose another "
                "folder (several may share the work with --task_index and --num_tasks)"
            )
        yield
    finally:
        os.close(descriptor)
