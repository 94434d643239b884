"""Algorithm 1 of UniVIP as TensorFlow graph: scene pairs whose overlap holds proposals, K instances, and their crops.

As printed, the algorithm's containment test is reversed; a box counts when it lies inside the overlap. Boxes are
float32 yxyx in [0, 1]; seeds are int32 [2], as the stateless random operations take them. No loop depends on the photo
in its length, so no photo can hang or fail.
"""

import math

from univip_jax.data.boxes import MAX_ASPECT, MAX_IOU
from univip_jax.data.host import tf
from univip_jax.views import ViewSpec

_TRIES = 10  # of a crop, before it is the central one
_CANDIDATES = 100  # naive boxes drawn per photo
_TOUCH = 1e-6  # rounding allowed when a box lies inside the overlap


def torchvision_crops(
    seed: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    count: int,
    share: tuple[float, float],
    aspect: tuple[float, float],
) -> tf.Tensor:
    """Boxes [count, 4] of torchvision's RandomResizedCrop: the first of ten draws of area and aspect that fits.

    Area is uniform and aspect log-uniform in each draw; large crops seldom fit, so they are rare. Where no draw fits,
    the crop is the largest central one whose aspect lies in the range. Sides and places are whole px.

    Args:
      height, width: of the photo, px, float32 scalars.
      share: of the photo's area, least and largest.
      aspect: width / height, least and largest.
    """
    seeds, photo = tf.random.split(seed, 3), tf.stack([height, width])
    area = height * width * tf.random.stateless_uniform([count, _TRIES], seeds[0], *share)
    ratio = tf.exp(tf.random.stateless_uniform([count, _TRIES], seeds[1], *map(math.log, aspect)))
    tries = tf.round(tf.sqrt(tf.stack([area / ratio, area * ratio], -1)))
    central = tf.stack([width / aspect[0], height * aspect[1]])
    central = tf.clip_by_value(tf.round(central), 1, photo)
    tries = tf.concat([tries, tf.tile(central[None, None], [count, 1, 1])], 1)
    fits = tf.reduce_all((tries >= 1) & (tries <= photo), -1)  # the last always does
    first = tf.argmax(tf.cast(fits, tf.int32), 1)
    sides = tf.gather(tries, first, batch_dims=1)
    corner = tf.floor(tf.random.stateless_uniform([count, 2], seeds[2]) * (photo - sides + 1))
    corner = tf.where(first[:, None] == _TRIES, tf.floor((photo - sides) / 2), corner)
    return tf.concat([corner, corner + sides], -1) / tf.tile(photo, [2])


def uniform_crops(
    seed: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    count: int,
    share: tuple[float, float],
    aspect: tuple[float, float],
) -> tf.Tensor:
    """Boxes [count, 4] whose area stays uniform: the aspect is log-uniform over the part of its range that fits.

    Nearly DeepMind's, which clips what does not fit. Where no aspect of the range fits, the crop is as long as the
    photo. Arguments as for `torchvision_crops`.
    """
    seeds = tf.random.split(seed, 3)
    area = tf.random.stateless_uniform([count], seeds[0], *share)
    photo = width / height
    low, high = (tf.math.log(tf.clip_by_value(bound, *aspect)) for bound in (area * photo, photo / area))
    ratio = tf.exp(low + tf.random.stateless_uniform([count], seeds[1]) * (high - low))
    sides = tf.minimum(tf.sqrt(tf.stack([area * photo / ratio, area * ratio / photo], -1)), 1.0)
    corner = tf.random.stateless_uniform([count, 2], seeds[2]) * (1 - sides)
    return tf.concat([corner, corner + sides], -1)


def random_crops(seed: tf.Tensor, height: tf.Tensor, width: tf.Tensor, count: int, spec: ViewSpec) -> tf.Tensor:
    """Boxes [count, 4] by `views.crop`, `views.area` and `views.aspect`."""
    draw = {"torchvision": torchvision_crops, "uniform": uniform_crops}[spec.crop]
    return draw(seed, height, width, count, spec.area, spec.aspect)


def intersection(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Boxes [..., 4] common to a and b (they broadcast); without common area, a box of no area."""
    low = tf.maximum(a[..., :2], b[..., :2])
    return tf.concat([low, tf.maximum(low, tf.minimum(a[..., 2:], b[..., 2:]))], -1)


def area(boxes: tf.Tensor) -> tf.Tensor:
    """Areas [...] of boxes [..., 4], as shares of the photo."""
    return tf.reduce_prod(boxes[..., 2:] - boxes[..., :2], -1)


def iou(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Intersection over union [...] of boxes [..., 4]; they broadcast."""
    common = area(intersection(a, b))
    return common / tf.maximum(area(a) + area(b) - common, 1e-12)


def inside(boxes: tf.Tensor, regions: tf.Tensor) -> tf.Tensor:
    """Whether boxes [..., 4] lie inside regions [..., 4] (they broadcast), bool [...]."""
    low = tf.reduce_all(boxes[..., :2] >= regions[..., :2] - _TOUCH, -1)
    return low & tf.reduce_all(boxes[..., 2:] <= regions[..., 2:] + _TOUCH, -1)


def scene_pair(
    seed: tf.Tensor, proposals: tf.Tensor, height: tf.Tensor, width: tf.Tensor, spec: ViewSpec
) -> tuple[tf.Tensor, tf.Tensor]:
    """Two scene crops [2, 4], and the region [4] that holds their instances (UniVIP Algorithm 1).

    With `overlap`: the first of `num_trials` pairs whose overlap holds `min_proposals` of the proposals [N, 4]; if none
    does, the pair that holds most, and among equals the one with the largest overlap. The region is the overlap.
    Without it: any pair, and the region is the whole photo.
    """
    if not spec.overlap:
        return random_crops(seed, height, width, 2, spec), tf.constant([0.0, 0.0, 1.0, 1.0])
    crops = random_crops(seed, height, width, 2 * spec.num_trials, spec)
    pairs = tf.reshape(crops, [spec.num_trials, 2, 4])
    overlaps = intersection(pairs[:, 0], pairs[:, 1])
    held = tf.reduce_sum(tf.cast(inside(proposals[None], overlaps[:, None]), tf.float32), 1)
    trial = tf.range(spec.num_trials, dtype=tf.float32)
    # One number to rank by: pairs that hold enough by their trial, the others by count, then by area (which is < 1).
    enough = (held >= spec.min_proposals) & (area(overlaps) > 0)
    best = tf.argmax(tf.where(enough, 1e6 - trial, held + 0.999 * area(overlaps)))
    pair, overlap = pairs[best], overlaps[best]
    # If no pair overlaps by a pixel, the first view is shown twice: the instances need a region.
    too_small = tf.reduce_any((overlap[2:] - overlap[:2]) * tf.stack([height, width]) < 1)
    return tf.where(too_small, pair[:1], pair), tf.where(too_small, pair[0], overlap)


def naive_boxes(
    seed: tf.Tensor, region: tf.Tensor, height: tf.Tensor, width: tf.Tensor, smallest: tf.Tensor
) -> tf.Tensor:
    """Random boxes [_CANDIDATES, 4] inside region [4]: sides >= `smallest` [2] px, aspect within 1/3..3.

    `smallest` must fit into the region. Where the region itself is thinner than the aspect allows, so are the boxes.
    """
    scale = tf.stack([height, width])
    size = (region[2:] - region[:2]) * scale  # px
    u = tf.random.stateless_uniform([4, _CANDIDATES], seed)

    def between(u: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
        return low + u * (tf.maximum(low, high) - low)

    h = between(u[0], smallest[0], tf.minimum(size[0], MAX_ASPECT * size[1]))
    low = tf.minimum(tf.maximum(smallest[1], h / MAX_ASPECT), size[1])
    w = between(u[1], low, tf.minimum(size[1], MAX_ASPECT * h))
    sides = tf.stack([h, w], -1)
    corner = region[:2] + tf.transpose(u[2:]) * (size - sides) / scale
    return tf.clip_by_value(
        tf.concat([corner, corner + sides / scale], -1), tf.tile(region[:2], [2]), tf.tile(region[2:], [2])
    )


def instance_boxes(
    seed: tf.Tensor, proposals: tf.Tensor, region: tf.Tensor, height: tf.Tensor, width: tf.Tensor, spec: ViewSpec
) -> tf.Tensor:
    """Exactly K boxes [K, 4] inside region [4]: its proposals first, then naive boxes (UniVIP 3.2).

    Naive boxes have sides of `min_box_side` px, an IoU of at most 0.5 with the boxes chosen before, and a bounded
    aspect. Where the region has no room for that, first the least side shrinks to half the region's, then the box with
    the least IoU is taken.
    """
    seeds = tf.random.split(seed, 3)
    num = tf.shape(proposals)[0]
    rank = tf.random.stateless_uniform([num], seeds[2])
    if spec.pick == "first":
        rank = 1 - tf.range(num, dtype=tf.float32) / tf.maximum(1.0, tf.cast(num, tf.float32))
    tier, usable = 3 + rank, inside(proposals, region)

    def pick() -> tf.Tensor:
        best = tf.argsort(tf.where(usable, tier, -2.0), direction="DESCENDING")[: spec.num_instances]
        return tf.gather(proposals, best)

    def fill_up() -> tf.Tensor:
        return _fill_up(seeds, proposals, tier, usable, region, tf.stack([height, width]), spec)

    if spec.proposals == "naive":  # they keep their distance from each other too
        return fill_up()
    # Stored proposals were filtered among themselves, and an annotated object counts whatever it overlaps: if there are
    # enough, as nearly always, no naive box is drawn and no IoU computed, which would take most of the geometry's time.
    boxes = tf.cond(tf.math.count_nonzero(usable) >= spec.num_instances, pick, fill_up)
    return tf.ensure_shape(boxes, [spec.num_instances, 4])


def _fill_up(
    seeds: tf.Tensor,
    proposals: tf.Tensor,
    tier: tf.Tensor,
    usable: tf.Tensor,
    region: tf.Tensor,
    scale: tf.Tensor,
    spec: ViewSpec,
) -> tf.Tensor:
    """K boxes [K, 4]: the `usable` proposals, highest `tier` first, then naive boxes."""
    size = (region[2:] - region[:2]) * scale  # px
    least = tf.minimum(float(spec.min_box_side), size)
    shrunk = tf.minimum(float(spec.min_box_side), size / 2)
    naive = [naive_boxes(seeds[i], region, scale[0], scale[1], side) for i, side in enumerate((least, shrunk))]
    boxes = tf.concat([proposals, *naive], 0)
    tier = tf.concat([tier, tf.fill([_CANDIDATES], 2.0), tf.fill([_CANDIDATES], 1.0)], 0)
    free = (tf.range(tf.shape(boxes)[0]) < tf.shape(proposals)[0]) & (spec.proposals != "naive")
    usable = tf.concat([usable, tf.ones([2 * _CANDIDATES], tf.bool)], 0)
    worst, chosen = tf.zeros_like(tier), []
    for _ in range(spec.num_instances):
        score = tf.where(free | (worst <= MAX_IOU), tier, -worst)
        index = tf.argmax(tf.where(usable, score, -2.0))
        chosen.append(boxes[index])
        usable &= tf.range(tf.shape(boxes)[0], dtype=tf.int64) != index
        worst = tf.maximum(worst, iou(boxes, boxes[index]))
    return tf.reshape(tf.stack(chosen) if chosen else [], [spec.num_instances, 4])


def crop(image: tf.Tensor, boxes: tf.Tensor, size: int, interpolation: str = "bilinear") -> tf.Tensor:
    """Crops uint8 [n, size, size, 3] of image uint8 [H, W, 3], one for each of boxes [n, 4], anti-aliased.

    As Pillow resizes, whose cubic is Keys' of a = -0.5 too; but near the box's border pixels beyond it count.
    """
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    low = boxes[:, :2] * shape
    scale = size / tf.maximum(boxes[:, 2:] * shape - low, 1e-3)
    crops = [tf.zeros([0, size, size, 3], tf.uint8)]
    for index in range(boxes.shape[0]):
        pixels = tf.raw_ops.ScaleAndTranslate(
            images=image[None],
            size=[size, size],
            scale=scale[index],
            translation=-low[index] * scale[index],
            kernel_type={"bilinear": "triangle", "bicubic": "keyscubic"}[interpolation],
            antialias=True,
        )
        crops.append(_to_uint8(pixels))
    return tf.concat(crops, 0)


def _to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """Rounds to the nearest, halves to even, and clips to 0..255: in one pass over memory instead of three."""
    quantized = tf.raw_ops.QuantizeV2(
        input=pixels, min_range=0.0, max_range=255.0, T=tf.quint8, mode="SCALED", round_mode="HALF_TO_EVEN"
    )
    return tf.bitcast(quantized.output, tf.uint8)
