"""Detections to entries of a COCO results file in worker processes, while the devices compute."""

import json
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from typing import Self

from univip_jax.common.errors import TransientError
from univip_jax.common.workers import single_threaded
from univip_jax.detection.coco_ap import Found, id_order, results_of

_MOST_WORKERS = 16
_WAITING = 8  # photos a worker that wait for it; a photo with 100 masks has 160 KB


def entries_of(found: Found) -> tuple[str, int, float]:
    """The entries of a photo as JSON, a line each; their number; and the seconds that they took."""
    started = time.perf_counter()
    lines = [json.dumps(entry, separators=(",", ":")) for entry in results_of(found)]
    return ",\n".join(lines), len(lines), time.perf_counter() - started


class Paster(AbstractContextManager):
    """Pastes and encodes the masks of photos; few of them wait in memory at once.

    Attributes:
      number: of detections so far.
      seconds: of work so far, of all workers together.
    """

    def __init__(self, num_workers: int):
        self._num_workers = min(_MOST_WORKERS, num_workers)
        self._workers = single_threaded(self._num_workers)
        self._waiting: deque[tuple[int | str, Future]] = deque()
        self._entries: dict[int | str, str] = {}
        self.number, self.seconds = 0, 0.0

    def __enter__(self) -> Self:
        self._pool = self._workers.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._workers.__exit__(*error)

    def add(self, found: Found) -> None:
        """Takes a photo, and waits where the workers are behind. Raises TransientError: one of them was killed."""
        if self._pool is None:
            self._keep(found.image_id, *entries_of(found))
            return
        try:
            self._waiting.append((found.image_id, self._pool.submit(entries_of, found)))
        except BrokenProcessPool as error:
            raise self._killed() from error
        self._collect(_WAITING * self._num_workers)

    def finish(self) -> str:
        """The contents of a COCO results file: all photos by `id_order`, detections by descending score."""
        self._collect(0)
        entries = [self._entries[number] for number in sorted(self._entries, key=id_order)]
        return "[" + ",\n".join(filter(None, entries)) + "]\n"

    def _collect(self, left: int) -> None:
        while len(self._waiting) > left:
            image_id, future = self._waiting.popleft()
            try:
                self._keep(image_id, *future.result())
            except BrokenProcessPool as error:
                raise self._killed() from error

    def _keep(self, image_id: int | str, entries: str, number: int, seconds: float) -> None:
        self._entries[image_id] = entries
        self.number += number
        self.seconds += seconds

    def _killed(self) -> TransientError:
        return TransientError(
            f"one of {self._num_workers} processes that paste masks was killed (most often: no memory left): free "
            "memory, then run the same command again"
        )
