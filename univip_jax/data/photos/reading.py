"""Photos of any source to pixels, as training sees them, read ahead by threads."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from univip_jax.common.buckets import is_bucket
from univip_jax.data.host import available_cores, tf
from univip_jax.data.photos.decode import as_stored, check_end
from univip_jax.data.photos.listing import PhotoFile
from univip_jax.data.photos.sources import open_photo
from univip_jax.data.records import decode_image

_MAX_THREADS = 16
_REQUESTS = 32  # at the same time, to a bucket: with 50 ms of latency 640 a second
Loaded = TypeVar("Loaded")


def read_upright(photo: PhotoFile) -> tf.Tensor:
    """The photo as uint8 [H, W, 3]. Raises as `open_photo` does, and Rejected where it cannot be decoded."""
    encoded = open_photo(photo).encoded
    image = decode_image(as_stored(encoded))
    check_end(encoded, image[-1].numpy(), len(image))
    return image


def read_ahead(photos: Sequence[PhotoFile], load: Callable[[PhotoFile], Loaded], ahead: int) -> Iterator[Loaded]:
    """`load` of each photo, in order; `ahead` photos are loaded before they are asked for."""
    in_bucket = any(is_bucket(photo.path) for photo in photos)
    threads = ThreadPoolExecutor(_REQUESTS if in_bucket else min(_MAX_THREADS, available_cores()))
    waiting: deque[Future[Loaded]] = deque()
    try:
        for photo in photos:
            waiting.append(threads.submit(load, photo))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
