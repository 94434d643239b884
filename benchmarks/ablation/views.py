"""Algorithm 1 of UniVIP in JAX, for square photos in memory; `univip_jax.data.crops` does the same in TensorFlow.

The distributions are equal, the random numbers differ; tests compare the two. Boxes are float32 yxyx in [0, 1]; a box
without area is padding.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt8

from univip_jax.data.boxes import MAX_ASPECT, MAX_IOU
from univip_jax.types import Batch
from univip_jax.views import ViewSpec

_TRIES = 10  # of a crop, before it is the whole photo
_CANDIDATES = 100  # naive boxes drawn per photo and smallest side
_TOUCH = 1e-6  # rounding error allowed for a box inside the overlap

Boxes = Float[Array, "*n 4"]


def random_crops(key: Key[Array, ""], side: int, count: int, spec: ViewSpec) -> Float[Array, "count 4"]:
    """Random resized crops of a photo of `side` px by `views.crop`; see `data.crops`."""
    draw = {"torchvision": _torchvision_crops, "uniform": _uniform_crops}[spec.crop]
    return draw(key, side, count, spec)


def _torchvision_crops(key: Key[Array, ""], side: int, count: int, spec: ViewSpec) -> Float[Array, "count 4"]:
    """The first of ten draws that fits, else the whole photo, which is square."""
    keys = jax.random.split(key, 3)
    area_ = side**2 * jax.random.uniform(keys[0], (count, _TRIES), minval=spec.area[0], maxval=spec.area[1])
    low, high = map(math.log, spec.aspect)
    ratio = jnp.exp(jax.random.uniform(keys[1], (count, _TRIES), minval=low, maxval=high))
    tries = jnp.round(jnp.sqrt(jnp.stack([area_ / ratio, area_ * ratio], -1)))
    tries = jnp.concatenate([tries, jnp.full((count, 1, 2), side)], 1)
    first = jnp.argmax(jnp.all((tries >= 1) & (tries <= side), -1), 1)
    sides = jnp.take_along_axis(tries, first[:, None, None], 1)[:, 0]
    corner = jnp.floor(jax.random.uniform(keys[2], (count, 2)) * (side - sides + 1))
    return jnp.concatenate([corner, corner + sides], -1) / side


def _uniform_crops(key: Key[Array, ""], side: int, count: int, spec: ViewSpec) -> Float[Array, "count 4"]:
    """Area uniform, aspect log-uniform among those that fit."""
    keys = jax.random.split(key, 3)
    area_ = jax.random.uniform(keys[0], (count,), minval=spec.area[0], maxval=spec.area[1])
    low, high = (jnp.log(jnp.clip(bound, *spec.aspect)) for bound in (area_, 1 / area_))
    ratio = jnp.exp(low + jax.random.uniform(keys[1], (count,)) * (high - low))
    sides = jnp.minimum(jnp.sqrt(jnp.stack([area_ / ratio, area_ * ratio], -1)), 1.0)
    corner = jax.random.uniform(keys[2], (count, 2)) * (1 - sides)
    return jnp.concatenate([corner, corner + sides], -1)


def intersection(a: Boxes, b: Boxes) -> Boxes:
    """Intersections of boxes (they broadcast); a box without area where there is none."""
    low = jnp.maximum(a[..., :2], b[..., :2])
    return jnp.concatenate([low, jnp.maximum(low, jnp.minimum(a[..., 2:], b[..., 2:]))], -1)


def area(boxes: Boxes) -> Float[Array, "*n"]:
    """Areas, as shares of the photo."""
    return jnp.prod(boxes[..., 2:] - boxes[..., :2], -1)


def inside(boxes: Boxes, regions: Boxes) -> Bool[Array, "*n"]:
    """Whether boxes with area lie inside regions (they broadcast)."""
    low = jnp.all(boxes[..., :2] >= regions[..., :2] - _TOUCH, -1)
    return low & jnp.all(boxes[..., 2:] <= regions[..., 2:] + _TOUCH, -1) & (area(boxes) > 0)


def scene_pair(
    key: Key[Array, ""], proposals: Float[Array, "P 4"], side: int, spec: ViewSpec
) -> tuple[Float[Array, "2 4"], Float[Array, " 4"]]:
    """Two scene crops and the region for their instances; see `data.crops.scene_pair`."""
    if not spec.overlap:
        return random_crops(key, side, 2, spec), jnp.array([0.0, 0.0, 1.0, 1.0])
    pairs = random_crops(key, side, 2 * spec.num_trials, spec).reshape(spec.num_trials, 2, 4)
    overlaps = intersection(pairs[:, 0], pairs[:, 1])
    held = inside(proposals[None], overlaps[:, None]).sum(1)
    enough = (held >= spec.min_proposals) & (area(overlaps) > 0)
    best = jnp.argmax(jnp.where(enough, 1e6 - jnp.arange(spec.num_trials), held + 0.999 * area(overlaps)))
    pair, overlap = pairs[best], overlaps[best]
    too_small = jnp.any((overlap[2:] - overlap[:2]) * side < 1)
    return jnp.where(too_small, pair[:1], pair), jnp.where(too_small, pair[0], overlap)


def naive_boxes(
    key: Key[Array, ""], region: Float[Array, " 4"], side: int, smallest: Float[Array, " 2"]
) -> Float[Array, "C 4"]:
    """Random boxes inside the region: sides >= `smallest` px, aspect within 1/3..3 where the region allows it."""
    size = (region[2:] - region[:2]) * side
    u = jax.random.uniform(key, (4, _CANDIDATES))

    def between(u: Float[Array, " C"], low: Float[Array, "*C"], high: Float[Array, "*C"]) -> Float[Array, " C"]:
        return low + u * (jnp.maximum(low, high) - low)

    h = between(u[0], smallest[0], jnp.minimum(size[0], MAX_ASPECT * size[1]))
    low = jnp.minimum(jnp.maximum(smallest[1], h / MAX_ASPECT), size[1])
    w = between(u[1], low, jnp.minimum(size[1], MAX_ASPECT * h))
    sides = jnp.stack([h, w], -1)
    corner = region[:2] + u[2:].T * (size - sides) / side
    return jnp.clip(
        jnp.concatenate([corner, corner + sides / side], -1), jnp.tile(region[:2], 2), jnp.tile(region[2:], 2)
    )


def instance_boxes(
    key: Key[Array, ""], proposals: Float[Array, "P 4"], region: Float[Array, " 4"], side: int, spec: ViewSpec
) -> Float[Array, "K 4"]:
    """Exactly K boxes inside the region, its proposals first; see `data.crops.instance_boxes`."""
    keys = jax.random.split(key, 3)
    size = (region[2:] - region[:2]) * side
    naive = [
        naive_boxes(k, region, side, jnp.minimum(float(spec.min_box_side), largest))
        for k, largest in zip(keys, (size, size / 2), strict=False)
    ]
    boxes = jnp.concatenate([proposals, *naive])
    num = len(proposals)
    rank = jax.random.uniform(keys[2], (num,)) if spec.pick == "random" else 1 - jnp.arange(num) / num
    tier = jnp.concatenate([3 + rank, jnp.full(_CANDIDATES, 2.0), jnp.full(_CANDIDATES, 1.0)])
    free = (jnp.arange(len(boxes)) < num) & (spec.proposals != "naive")
    usable = jnp.concatenate([inside(proposals, region), jnp.ones(2 * _CANDIDATES, bool)])
    worst, chosen = jnp.zeros(len(boxes)), []
    for _ in range(spec.num_instances):
        score = jnp.where(free | (worst <= MAX_IOU), tier, -worst)
        index = jnp.argmax(jnp.where(usable, score, -2.0))
        chosen.append(boxes[index])
        usable &= jnp.arange(len(boxes)) != index
        common = area(intersection(boxes, boxes[index]))
        worst = jnp.maximum(worst, common / jnp.maximum(area(boxes) + area(boxes[index]) - common, 1e-12))
    return jnp.stack(chosen) if chosen else jnp.zeros((0, 4))


def crop(
    image: UInt8[Array, "S S 3"], boxes: Float[Array, "n 4"], size: int, interpolation: str
) -> UInt8[Array, "n s s 3"]:
    """Crops of the image at `size` px, anti-aliased."""

    def one(box: Float[Array, " 4"]) -> Float[Array, "s s 3"]:
        low, high = box[:2] * image.shape[0], box[2:] * image.shape[0]
        scale = size / jnp.maximum(high - low, 1e-3)
        kernel = {"bilinear": "linear", "bicubic": "cubic"}[interpolation]
        return jax.image.scale_and_translate(
            image.astype(jnp.float32), (size, size, 3), (0, 1), scale, -low * scale, kernel, antialias=True
        )

    return jnp.clip(jnp.round(jax.vmap(one)(boxes)), 0, 255).astype(jnp.uint8)


def choose_views(
    key: Key[Array, ""], stored: Float[Array, "P 4"], objects: Float[Array, "O 4"], side: int, spec: ViewSpec
) -> tuple[Float[Array, "2 4"], Float[Array, " 4"], Float[Array, "K 4"]]:
    """Boxes of the scenes, their region and the instances of one photo."""
    first, second, third = jax.random.split(key, 3)
    whole, smallest = jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.full(2, float(min(spec.min_box_side, side)))
    proposals = {"annotated": objects, "stored": stored}.get(spec.proposals)
    if proposals is None:
        proposals = naive_boxes(third, whole, side, smallest)
    scenes, region = scene_pair(first, proposals, side, spec)
    return scenes, region, instance_boxes(second, proposals, region, side, spec)


@partial(jax.jit, static_argnames="spec")
def make_views(
    key: Key[Array, ""],
    photos: UInt8[Array, "B S S 3"],
    proposals: Float[Array, "B P 4"],
    objects: Float[Array, "B O 4"],
    spec: ViewSpec,
) -> tuple[Batch, Float[Array, " B"]]:
    """Views of a batch of photos, and the share of each photo that is the scenes' overlap."""

    def one(key, photo, stored, annotated):
        scenes, _, instances = choose_views(key, stored, annotated, photo.shape[0], spec)
        parts = ((scenes, spec.scene_size), (instances, spec.instance_size))
        views = Batch(*(crop(photo, boxes, size, spec.interpolation) for boxes, size in parts))
        return views, area(intersection(*scenes))

    return jax.vmap(one)(jax.random.split(key, len(photos)), photos, proposals, objects)
