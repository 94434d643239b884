"""Maps a task over shards, in this process or in a pool of processes.

A task (`shards.process_shard`, `check.check_shard`) takes a spec and `on_photo`, which it calls after each photo, and
returns a result that pickles.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from tqdm import tqdm

from univip_jax.common.errors import UserError
from univip_jax.common.workers import SPAWN, begin_worker, no_shared_memory
from univip_jax.data.host import run_on_one_core

Task = Callable[[Any, Callable[[], object]], Any]

_SECONDS_BETWEEN_LOOKS = 0.2


def run(task: Task, specs: Sequence[Any], num_photos: int, num_workers: int) -> list[Any]:
    """Results of the task, in the order of the specs, with a progress bar in photos.

    After an interruption each worker stops at its next photo; finished shards stay good.

    Raises:
        UserError: from the task, or because a worker was killed.
        KeyboardInterrupt: on Ctrl-C, after the workers have stopped.
    """
    num_workers = min(num_workers, len(specs))
    pool = _open_pool(num_workers) if num_workers > 1 else None
    # In a log file, one line per minute is enough.
    interval = 0.5 if os.isatty(2) else 60
    with tqdm(total=num_photos, unit="photo", mininterval=interval, smoothing=0.1, dynamic_ncols=True) as bar:
        if pool is None:
            run_on_one_core()
            return [task(spec, bar.update) for spec in specs]
        return _run_pool(task, specs, num_workers, bar, pool)


class _Pool(NamedTuple):
    executor: ProcessPoolExecutor
    photos_done: Any  # shared with the workers
    stop: Any


def _open_pool(num_workers: int) -> _Pool | None:
    """None, with a line, where processes cannot share memory."""
    try:
        photos_done, stop = SPAWN.Value("q", 0), SPAWN.RawValue("b", 0)
        return _Pool(ProcessPoolExecutor(num_workers, SPAWN, _start_worker, (photos_done, stop)), photos_done, stop)
    except (OSError, ImportError) as error:
        print(no_shared_memory(num_workers, error), flush=True)
        return None


def _run_pool(task: Task, specs: Sequence[Any], num_workers: int, bar: tqdm, pool: _Pool) -> list[Any]:
    executor, photos_done, stop = pool
    futures = [executor.submit(_in_worker, task, spec) for spec in specs]
    waiting: set[Future] = set(futures)
    try:
        while waiting:
            done, waiting = wait(waiting, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
            bar.update(photos_done.get_obj().value - bar.n)
            for future in done:
                future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {num_workers} worker processes was killed (most often: no memory left): run the same "
            f"command again with --num_workers below {num_workers}; finished shards are not redone"
        ) from error
    finally:
        stop.value = 1
        executor.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


class _StoppedError(Exception):
    """The parent process asked this worker to stop."""


def _start_worker(photos_done: Any, stop: Any) -> None:
    """Runs once in each worker: keeps it to one thread, and lets only the parent process end it."""
    global _photos_done, _stop
    _photos_done, _stop = photos_done, stop
    begin_worker()
    run_on_one_core()


def _in_worker(task: Task, spec: Any) -> Any:
    def check_stop() -> None:
        if _stop.value:
            raise _StoppedError

    def on_photo() -> None:
        with _photos_done.get_lock():
            _photos_done.value += 1
        check_stop()

    check_stop()
    return task(spec, on_photo)
