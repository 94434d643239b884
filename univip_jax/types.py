"""What the rooms hand to each other, and the letters of its axes.

B images of a batch, K instances of an image, S scene side (px), I instance side (px), D projection size, H and W
height and width (px), F features of the backbone. Batch is axis 0 everywhere.
"""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8


class Photos(NamedTuple):
    """One step's photos as they leave the host, each at the upper left of a canvas of zeros."""

    pixels: UInt8[Array, "B H 3*W"]  # H x W px: a TPU would pad a last axis of 3 to 128
    extent: Int[Array, "B 2"]  # height and width of the photo on its canvas, px
    size: Int[Array, "B 2"]  # of the photo as stored, px: larger where it was shrunk to fit
    proposals: Float[Array, "B P 4"]  # yxyx in [0, 1]; padding has no area
    draw: Int[Array, "B 2"]  # epoch and number in the data set: with the seed, they decide the views


class Geometry(NamedTuple):
    """The boxes of a photo's views: yxyx in [0, 1]."""

    scenes: Float[Array, "*B 2 4"]
    region: Float[Array, "*B 4"]  # the instances lie inside it
    instances: Float[Array, "*B K 4"]


class Batch(NamedTuple):
    """One step's views."""

    scenes: UInt8[Array, "B 2 S S 3"]
    instances: UInt8[Array, "B K I I 3"]


class DetectionBatch(NamedTuple):
    """Photos on one canvas with their objects; `exists` tells objects from padding."""

    images: UInt8[Array, "B H W 3"]
    sizes: Float[Array, "B 2"]  # height and width of the photo on the canvas, px
    boxes: Float[Array, "B G 4"]  # yxyx, px of the canvas
    classes: Int[Array, "B G"]
    masks: UInt8[Array, "B G m m/8"]  # bits, each over its own box
    exists: Bool[Array, "B G"]
    photos: Int[Array, " B"]  # number in the data set: a photo's samples do not depend on its place in the batch


class OnlineOutputs(NamedTuple):
    """Outputs of the online network, after the predictor, float32."""

    scenes: Float[Array, "B 2 D"]
    instances: Float[Array, "B K D"]
    merged: Float[Array, "B D"]  # f_linear of the K concatenated instances (UniVIP Eq. 4)


class TargetOutputs(NamedTuple):
    """Outputs of the target network, after the projector, float32; no gradient flows into them."""

    scenes: Float[Array, "B 2 D"]
    instances: Float[Array, "B K D"]


class Features(NamedTuple):
    """Features of a labelled set, in its order."""

    features: Float[np.ndarray, "N F"]
    labels: Int[np.ndarray, " N"]


@flax.struct.dataclass
class TrainState:
    """Everything a step changes, and all that a checkpoint holds.

    `target_params` has the tree of `params['encoder']`. `bad_steps` counts the steps whose loss or gradient was not
    finite; such a step changes nothing else but `step`.
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    target_params: Any
    target_batch_stats: Any
    opt_state: Any
    bad_steps: Int[Array, ""]


@flax.struct.dataclass
class DetectorState:
    """Everything a step of a detector changes; `bad_steps` as in `TrainState`."""

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: Any
    bad_steps: Int[Array, ""]


Metrics = dict[str, jax.Array]


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """bfloat16 becomes float32; float64, which the equivalence tests use, stays."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
