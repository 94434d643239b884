"""What a detector finds in photos: the forward pass at test."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from univip_jax.detection.anchors import STRIDES
from univip_jax.detection.detections import Detections, detect
from univip_jax.detection.roi_align import pool_regions
from univip_jax.detection.step import Detector, on_canvas


class Predicted(NamedTuple):
    """Detections of each image, and the probability that each pixel of a detection's grid is of its object."""

    detections: Detections  # with the batch's axis
    masks: Float[Array, "B D q q"] | None


def predict(
    detector: Detector, variables: Any, images: UInt8[Array, "B H W 3"], sizes: Float[Array, "B 2"]
) -> Predicted:
    """Detections by running statistics.

    Args:
      sizes: height and width of each photo on the canvas, px.
    """
    net, spec, canvas = detector.net, detector.spec, images.shape[1:3]

    def run(method: str, *arguments: Any) -> Any:
        return net.apply(variables, *arguments, method=method)

    levels = run("levels", on_canvas(images, sizes), False)
    proposals = detector.propose(*run("propose", levels), sizes, canvas, train=False)

    def pool(boxes: Float[Array, "B R 4"], bins: int) -> Float[Array, "n p p c"]:
        pooled = pool_regions(levels[:4], boxes, STRIDES[:4], bins)
        return pooled.reshape(-1, *pooled.shape[2:])

    logits, deltas = run("classify", pool(proposals.boxes, spec.box_bins), False)
    by_image = [x.reshape(len(images), -1, *x.shape[1:]) for x in (logits, deltas)]

    def one(logits: Array, deltas: Array, boxes: Array, exists: Array, size: Array) -> Detections:
        return detect(
            logits, deltas, boxes, exists, size, threshold=spec.score_threshold,
            candidates=spec.test_candidates, nms=spec.test_nms, number=spec.detections,
        )  # fmt: skip

    found = jax.vmap(one)(*by_image, proposals.boxes, proposals.exists, sizes)
    if not net.masks:
        return Predicted(found, None)
    logits = run("segment", pool(found.boxes, spec.mask_bins), False)
    of_class = found.classes.ravel()[:, None, None, None] == jnp.arange(logits.shape[-1])
    masks = jax.nn.sigmoid(jnp.where(of_class, logits, 0).sum(-1))
    return Predicted(found, masks.reshape(len(images), -1, *masks.shape[1:]))
