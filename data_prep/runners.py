"""Maps a task over shards, in this process or in a pool of processes.

A task (`shards.process_shard`, `check.check_shard`) takes a spec and returns a result; both pickle.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tqdm import tqdm

from univip_jax.common.errors import UserError
from univip_jax.data.host import run_on_one_core

Task = Callable[[Any], Any]


def run(task: Task, specs: Sequence[Any], num_photos: Sequence[int], num_workers: int) -> list[Any]:
    """Results of the task, in the order of the specs, with a progress bar.

    After an interruption finished shards stay good.

    Args:
        num_photos: in each spec, for the bar.

    Raises:
        UserError: from the task, or because a worker was killed.
        KeyboardInterrupt: on Ctrl-C, after the workers have been killed.
    """
    num_workers = min(num_workers, len(specs))
    # In a log file, one line per minute is enough.
    interval = 0.5 if os.isatty(2) else 60
    with tqdm(total=sum(num_photos), unit="photo", mininterval=interval, smoothing=0.1, dynamic_ncols=True) as bar:
        if num_workers > 1:
            return _run_pool(task, specs, num_photos, num_workers, bar)
        run_on_one_core()
        results = []
        for spec, number in zip(specs, num_photos, strict=True):
            results.append(task(spec))
            bar.update(number)
        return results


def _run_pool(task: Task, specs: Sequence[Any], num_photos: Sequence[int], num_workers: int, bar: tqdm) -> list[Any]:
    context = multiprocessing.get_context("spawn")  # a fork of a process with TensorFlow's threads can deadlock
    with ProcessPoolExecutor(num_workers, context, _start_worker) as pool:
        futures = {pool.submit(task, spec): number for spec, number in zip(specs, num_photos, strict=True)}
        try:
            for future in as_completed(futures):
                future.result()
                bar.update(futures[future])
        except BaseException as error:
            for worker in multiprocessing.active_children():
                worker.kill()
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    f"one of {num_workers} worker processes was killed (most often: no memory left): run the same "
                    f"command again with --num_workers below {num_workers}; finished shards are not redone"
                ) from error
            raise
    return [future.result() for future in futures]


def _start_worker() -> None:
    """Runs once in each worker: keeps it to one thread, and lets only the parent process end it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run_on_one_core()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
