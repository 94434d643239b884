"""Algorithm 1 of UniVIP: two scenes whose overlap holds proposals, and K instances in it.

As printed, the algorithm's containment test is reversed; a box counts when it lies inside the overlap. Boxes are
float32 yxyx in [0, 1]; one without area is padding. A photo's size is float32 [2], its height and width in px. All is
for one photo, to be mapped over a batch; no shape and no loop depends on the photo, so none can hang or fail.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from univip_jax.types import Geometry
from univip_jax.views import MAX_ASPECT, MAX_IOU, ViewSpec

_TRIES = 10  # of a crop, before it is the central one
_CANDIDATES = 100  # naive boxes drawn per photo and smallest side
_TOUCH = 1e-6  # rounding allowed when a box lies inside the overlap
_WHOLE = (0.0, 0.0, 1.0, 1.0)  # the whole photo

Size = Float[Array, " 2"]
Boxes = Float[Array, "*n 4"]


def _uniform(key: Key[Array, ""], shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Float[Array, "..."]:
    return jax.random.uniform(key, shape, jnp.float32, low, high)


def torchvision_crops(
    key: Key[Array, ""], size: Size, count: int, share: tuple[float, float], aspect: tuple[float, float]
) -> Float[Array, "count 4"]:
    """Boxes of torchvision's RandomResizedCrop: the first of ten draws of area and aspect that fits.

    Area is uniform and aspect log-uniform in each draw; large crops seldom fit, so they are rare. Where no draw fits,
    the crop is the largest central one whose aspect lies in the range. Sides and places are whole px.

    Args:
      share: of the photo's area, least and largest.
      aspect: width / height, least and largest.
    """
    keys = jax.random.split(key, 3)
    area_ = size[0] * size[1] * _uniform(keys[0], (count, _TRIES), *share)
    ratio = jnp.exp(_uniform(keys[1], (count, _TRIES), *map(math.log, aspect)))
    tries = jnp.round(jnp.sqrt(jnp.stack([area_ / ratio, area_ * ratio], -1)))
    central = jnp.clip(jnp.round(jnp.stack([size[1] / aspect[0], size[0] * aspect[1]])), 1, size)
    tries = jnp.concatenate([tries, jnp.broadcast_to(central, (count, 1, 2))], 1)
    first = jnp.argmax(jnp.all((tries >= 1) & (tries <= size), -1), 1)  # the last always fits
    sides = jnp.take_along_axis(tries, first[:, None, None], 1)[:, 0]
    corner = jnp.floor(_uniform(keys[2], (count, 2)) * (size - sides + 1))
    corner = jnp.where(first[:, None] == _TRIES, jnp.floor((size - sides) / 2), corner)
    return jnp.concatenate([corner, corner + sides], -1) / jnp.tile(size, 2)


def uniform_crops(
    key: Key[Array, ""], size: Size, count: int, share: tuple[float, float], aspect: tuple[float, float]
) -> Float[Array, "count 4"]:
    """Boxes whose area stays uniform: the aspect is log-uniform over the part of its range that fits.

    Nearly DeepMind's, which clips what does not fit. Where no aspect of the range fits, the crop is as long as the
    photo. Arguments as for `torchvision_crops`.
    """
    keys = jax.random.split(key, 3)
    area_, photo = _uniform(keys[0], (count,), *share), size[1] / size[0]
    low, high = (jnp.log(jnp.clip(bound, *aspect)) for bound in (area_ * photo, photo / area_))
    ratio = jnp.exp(low + _uniform(keys[1], (count,)) * (high - low))
    sides = jnp.minimum(jnp.sqrt(jnp.stack([area_ * photo / ratio, area_ * ratio / photo], -1)), 1.0)
    corner = _uniform(keys[2], (count, 2)) * (1 - sides)
    return jnp.concatenate([corner, corner + sides], -1)


def random_crops(key: Key[Array, ""], size: Size, count: int, spec: ViewSpec) -> Float[Array, "count 4"]:
    """Boxes by `views.crop`, `views.area` and `views.aspect`."""
    draw = {"torchvision": torchvision_crops, "uniform": uniform_crops}[spec.crop]
    return draw(key, size, count, spec.area, spec.aspect)


def intersection(a: Boxes, b: Boxes) -> Boxes:
    """What a and b have in common (they broadcast); without common area, a box of no area."""
    low = jnp.maximum(a[..., :2], b[..., :2])
    return jnp.concatenate([low, jnp.maximum(low, jnp.minimum(a[..., 2:], b[..., 2:]))], -1)


def area(boxes: Boxes) -> Float[Array, "*n"]:
    """Areas, as shares of the photo."""
    return jnp.prod(boxes[..., 2:] - boxes[..., :2], -1)


def iou(a: Boxes, b: Boxes) -> Float[Array, "*n"]:
    """Intersection over union; they broadcast."""
    common = area(intersection(a, b))
    return common / jnp.maximum(area(a) + area(b) - common, 1e-12)


def inside(boxes: Boxes, regions: Boxes) -> Bool[Array, "*n"]:
    """Whether boxes with area lie inside regions (they broadcast)."""
    low = jnp.all(boxes[..., :2] >= regions[..., :2] - _TOUCH, -1)
    return low & jnp.all(boxes[..., 2:] <= regions[..., 2:] + _TOUCH, -1) & (area(boxes) > 0)


def scene_pair(
    key: Key[Array, ""], proposals: Float[Array, "P 4"], size: Size, spec: ViewSpec
) -> tuple[Float[Array, "2 4"], Float[Array, " 4"]]:
    """Two scene crops, and the region that holds their instances (UniVIP Algorithm 1).

    With `overlap`: the first of `num_trials` pairs whose overlap holds `min_proposals` of the proposals; if none does,
    the pair that holds most, and among equals the one with the largest overlap. The region is the overlap. Without it:
    any pair, and the region is the whole photo.
    """
    if not spec.overlap:
        return random_crops(key, size, 2, spec), jnp.array(_WHOLE, jnp.float32)
    pairs = random_crops(key, size, 2 * spec.num_trials, spec).reshape(spec.num_trials, 2, 4)
    overlaps = intersection(pairs[:, 0], pairs[:, 1])
    held = inside(proposals[None], overlaps[:, None]).sum(1)
    # One number to rank by: pairs that hold enough by their trial, the others by count, then by area (which is < 1).
    enough = (held >= spec.min_proposals) & (area(overlaps) > 0)
    best = jnp.argmax(jnp.where(enough, 1e6 - jnp.arange(spec.num_trials), held + 0.999 * area(overlaps)))
    pair, overlap = pairs[best], overlaps[best]
    # If no pair overlaps by a pixel, the first view is shown twice: the instances need a region.
    too_small = jnp.any((overlap[2:] - overlap[:2]) * size < 1)
    return jnp.where(too_small, pair[:1], pair), jnp.where(too_small, pair[0], overlap)


def naive_boxes(key: Key[Array, ""], region: Float[Array, " 4"], size: Size, smallest: Size) -> Float[Array, "C 4"]:
    """Random boxes inside the region: sides >= `smallest` px, aspect within 1/3..3.

    `smallest` must fit into the region. Where the region itself is thinner than the aspect allows, so are the boxes.
    """
    room = (region[2:] - region[:2]) * size  # px
    u = _uniform(key, (4, _CANDIDATES))

    def between(u: Float[Array, " C"], low: Float[Array, "*C"], high: Float[Array, "*C"]) -> Float[Array, " C"]:
        return low + u * (jnp.maximum(low, high) - low)

    h = between(u[0], smallest[0], jnp.minimum(room[0], MAX_ASPECT * room[1]))
    low = jnp.minimum(jnp.maximum(smallest[1], h / MAX_ASPECT), room[1])
    w = between(u[1], low, jnp.minimum(room[1], MAX_ASPECT * h))
    sides = jnp.stack([h, w], -1)
    corner = region[:2] + u[2:].T * (room - sides) / size
    boxes = jnp.concatenate([corner, corner + sides / size], -1)
    return jnp.clip(boxes, jnp.tile(region[:2], 2), jnp.tile(region[2:], 2))


def instance_boxes(
    key: Key[Array, ""], proposals: Float[Array, "P 4"], region: Float[Array, " 4"], size: Size, spec: ViewSpec
) -> Float[Array, "K 4"]:
    """Exactly K boxes inside the region: its proposals first, then naive boxes (UniVIP 3.2).

    Naive boxes have sides of `min_box_side` px, an IoU of at most 0.5 with the boxes chosen before, and a bounded
    aspect; so have stored proposals, among themselves, and an annotated object counts whatever it overlaps. Where the
    region has no room for a naive box, first the least side shrinks to half the region's, then the box with the least
    IoU is taken.
    """
    keys = jax.random.split(key, 3)
    room, num = (region[2:] - region[:2]) * size, len(proposals)
    naive = [
        naive_boxes(k, region, size, jnp.minimum(float(spec.min_box_side), largest))
        for k, largest in zip(keys, (room, room / 2), strict=False)
    ]
    boxes = jnp.concatenate([proposals, *naive])
    rank = _uniform(keys[2], (num,)) if spec.pick == "random" else 1 - jnp.arange(num) / num
    tier = jnp.concatenate([3 + rank, jnp.full(_CANDIDATES, 2.0), jnp.full(_CANDIDATES, 1.0)])
    free = (jnp.arange(len(boxes)) < num) & (spec.proposals != "naive")
    usable = jnp.concatenate([inside(proposals, region), jnp.ones(2 * _CANDIDATES, bool)])
    worst, chosen = jnp.zeros(len(boxes)), []
    for _ in range(spec.num_instances):
        score = jnp.where(free | (worst <= MAX_IOU), tier, -worst)
        index = jnp.argmax(jnp.where(usable, score, -2.0))
        chosen.append(boxes[index])
        usable &= jnp.arange(len(boxes)) != index
        worst = jnp.maximum(worst, iou(boxes, boxes[index]))
    return jnp.stack(chosen) if chosen else jnp.zeros((0, 4), jnp.float32)


def choose_views(key: Key[Array, ""], proposals: Float[Array, "P 4"], size: Size, spec: ViewSpec) -> Geometry:
    """The boxes of one photo's views; `views.proposals=naive` draws boxes in place of `proposals`."""
    first, second, third = jax.random.split(key, 3)
    if spec.proposals == "naive":
        smallest = jnp.minimum(float(spec.min_box_side), size)
        proposals = naive_boxes(third, jnp.array(_WHOLE, jnp.float32), size, smallest)
    scenes, region = scene_pair(first, proposals, size, spec)
    return Geometry(scenes, region, instance_boxes(second, proposals, region, size, spec))
