"""Several processes on one folder: one command fills it, and left-over files of killed processes are removed.

The command locks the folder (flock); temporary files are locked by their writers, on whatever machine. On a file system
without locks, left-over files stay and nothing stops a second command; finished files are whole all the same.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from univip_jax.common.errors import TransientError
from univip_jax.common.files import lock

_TMP_NAME = re.compile(r".+\.[0-9a-f]{32}\.tmp")


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files whose writer is dead; files of living writers stay."""
    for name in filter(_TMP_NAME.fullmatch, os.listdir(folder)):
        try:
            with open(folder / name, "rb+") as file:
                if lock(file.fileno(), fcntl.LOCK_EX):
                    os.unlink(folder / name)
        except FileNotFoundError:  # its writer has just finished
            continue


@contextmanager
def locked(folder: Path, shared: bool) -> Iterator[None]:
    """Locks the folder for this command, or for several that share it, until the block or the process ends.

    Raises TransientError: another command has the lock.
    """
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
