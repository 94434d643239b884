"""Which photos of a set cannot be decoded: all of them, once one was met."""

from collections.abc import Callable

from tqdm import tqdm

from univip_jax.data.host import tf


def unreadable_positions(
    examples: tf.data.Dataset, decode: Callable[[tf.Tensor], tf.Tensor], num_images: int, name: str
) -> list[int]:
    """Reads every photo of `examples`, (photo, label), once; the positions of those that `decode` fails on."""

    def load(position: tf.Tensor, example: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return position, tf.shape(decode(example[0]))  # what is not part of a result is not computed

    decoded = examples.enumerate().map(load, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    bad = set(range(num_images))
    with tqdm(total=num_images, unit="photo", desc=f"looking for unreadable photos of {name}") as bar:
        for position, _ in decoded.as_numpy_iterator():
            bad.remove(int(position))
            bar.update()
    return sorted(bad)
