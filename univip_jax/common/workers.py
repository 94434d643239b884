"""Worker processes: each keeps to one thread, and ends with the process that started it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

SPAWN = multiprocessing.get_context("spawn")  # a fork of a process with JAX's or TensorFlow's threads can deadlock
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")  # libraries read them when they are loaded


def begin_worker() -> None:
    """Runs once in each worker: lets only the parent process end it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


@contextmanager
def single_threaded(num_workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Workers whose linear algebra has one thread each; None for one worker, or where no memory can be shared."""
    earlier = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # workers start at need, and take it over
    pool = None
    try:
        if num_workers > 1:
            pool = ProcessPoolExecutor(num_workers, SPAWN, begin_worker)
    except (OSError, ImportError) as error:
        print(no_shared_memory(num_workers, error), flush=True)
    try:
        yield pool
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        for name, value in earlier.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def no_shared_memory(num_workers: int, error: Exception) -> str:
    """The line where there are no semaphores: /dev/shm is full, read-only or missing."""
    cause = getattr(error, "strerror", None) or error
    return f"one worker instead of {num_workers}: no memory can be shared in /dev/shm ({cause})"
