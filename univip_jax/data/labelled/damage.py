"""Finds all photos of a set that cannot be decoded, once one of them failed."""

from collections.abc import Callable

from tqdm import tqdm

from univip_jax.data.host import tf


def unreadable_positions(
    examples: tf.data.Dataset, decode: Callable[[tf.Tensor], tf.Tensor], num_images: int, name: str
) -> list[int]:
    """The positions of the photos in `examples`, (photo, label), on which `decode` fails; reads all of them."""

    def load(position: tf.Tensor, example: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return position, tf.shape(decode(example[0]))  # TensorFlow computes only what a result needs

    decoded = examples.enumerate().map(load, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    bad = set(range(num_images))
    with tqdm(total=num_images, unit="photo", desc=f"looking for unreadable photos of {name}") as bar:
        for position, _ in decoded.as_numpy_iterator():
            bad.remove(int(position))
            bar.update()
    return sorted(bad)
