"""Two ways to map a task over shards."""

import errno
import multiprocessing
import os
import time

import pytest

from data_prep import runners
from univip_jax.common.errors import UserError
from univip_jax.data.host import available_cores


def square(number, on_photo):
    on_photo()
    return number * number


def die(number, on_photo):
    os._exit(9)


def refuse_or_work(photos, on_photo):
    if not photos:
        raise UserError("disk full")
    for _ in range(photos):
        time.sleep(0.1)
        on_photo()


def test_run_returns_results_in_the_order_of_the_specs():
    assert runners.run(square, [3, 1, 2], num_photos=3, num_workers=1) == [9, 1, 4]


def test_killed_worker_is_one_line_with_a_way_out():
    with pytest.raises(UserError, match=r"worker processes was killed.*--num_workers below 2") as error:
        runners.run(die, [1, 2], num_photos=2, num_workers=2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.ENOENT, errno.ENOSYS])
def test_run_goes_on_with_one_worker_where_no_memory_can_be_shared(number, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("_multiprocessing.SemLock", refuse)
    assert runners.run(square, [3, 1, 2], num_photos=3, num_workers=2) == [9, 1, 4]
    line = f"one worker instead of 2: no memory can be shared in /dev/shm ({os.strerror(number)})\n"
    assert capsys.readouterr().out == line


def test_run_ends_all_workers_at_their_next_photo_after_an_error():
    begin = time.monotonic()
    with pytest.raises(UserError, match="disk full"):
        runners.run(refuse_or_work, [6000, 0], num_photos=6000, num_workers=2)
    assert time.monotonic() - begin < 300 and multiprocessing.active_children() == []


def test_at_least_one_core_is_available():
    assert 1 <= available_cores() <= os.cpu_count()
