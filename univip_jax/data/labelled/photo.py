"""One photo of a labelled set: read as `data_prep` reads it, and named where it cannot be."""

import os

import numpy as np

from univip_jax.common.files import read_bytes
from univip_jax.data.host import tf
from univip_jax.data.photos.decode import Rejected, as_stored, check_end, read_photo
from univip_jax.data.photos.listing import as_text
from univip_jax.data.records import decode_image


def fetch(address: tf.Tensor) -> tf.Tensor:
    """The bytes of a photo in a bucket, in graph: none where it is not there.

    What a network or a server does wrong is a tf.errors.OpError whose text ends as the UserError.
    """

    def read(address: bytes) -> bytes:
        try:
            return read_bytes(os.fsdecode(address))
        except FileNotFoundError:  # as all that does not decode, it is named later
            return b""

    return tf.ensure_shape(tf.numpy_function(read, [address], tf.string), [])


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """An encoded photo to uint8 [H, W, 3] as training sees it.

    Raises tf.errors.OpError: it cannot be used; `name_and_reason` says why.
    """
    image = decode_image(tf.numpy_function(_stored_or_nothing, [encoded], tf.string))
    is_whole = tf.numpy_function(_is_whole, [encoded, image[-1], tf.shape(image)[0]], tf.bool)
    with tf.control_dependencies([tf.debugging.Assert(is_whole, ["pixels are missing"])]):
        return tf.identity(image)


def _stored_or_nothing(encoded: bytes) -> bytes:
    """Nothing fails in decoding; an exception from here would print a traceback."""
    try:
        return as_stored(encoded)
    except Rejected:
        return b""


def _is_whole(encoded: bytes, last_row: np.ndarray, height: int) -> bool:
    try:
        check_end(encoded, last_row, height)
    except Rejected:
        return False
    return True


def name_and_reason(position: int, example: bytes, is_encoded: bool) -> str | None:
    """The photo at a position of its set, and why it cannot be used, in words; None: now it can.

    Raises UserError and TransientError for a bucket.
    """
    name, reason = f"photo {position}", "damaged: TensorFlow does not decode it"
    try:
        if not is_encoded:
            name = as_text(os.fsdecode(example))
            example = read_bytes(os.fsdecode(example))
        read_photo(example)
        decode(tf.constant(example))
        return None
    except (OSError, Rejected) as error:
        reason = getattr(error, "strerror", None) or str(error)
    except tf.errors.OpError:
        pass
    return f"{name} ({reason})"
