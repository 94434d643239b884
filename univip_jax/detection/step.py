"""One step of a detector: pyramid, proposals, sampling, heads, five losses, update."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from univip_jax.augment import normalize_pixels
from univip_jax.detection.anchors import STRIDES, anchors
from univip_jax.detection.boxes import encode
from univip_jax.detection.losses import box_losses, mask_loss, rpn_losses
from univip_jax.detection.matching import IGNORED, first_positive, match, sample
from univip_jax.detection.proposals import Proposals, propose
from univip_jax.detection.roi_align import pool_regions
from univip_jax.detection.spec import BOX_WEIGHTS, RPN_WEIGHTS, DetectorSpec
from univip_jax.detection.targets import mask_targets
from univip_jax.models.mask_rcnn import MaskRCNN
from univip_jax.sharding import by_batch, replicated
from univip_jax.types import DetectionBatch, DetectorState, Metrics

LOSSES = ("rpn_class", "rpn_box", "class", "box", "mask")


class Regions(NamedTuple):
    """Sampled regions of an image, those with an object first."""

    boxes: Float[Array, "R 4"]
    objects: Int[Array, " R"]  # number of the object; means nothing where there is none
    classes: Int[Array, " R"]  # K: background
    positive: Bool[Array, " R"]
    drawn: Bool[Array, " R"]  # the others fill the list


@dataclass(frozen=True)
class Detector:
    """A network and its numbers."""

    net: MaskRCNN
    spec: DetectorSpec

    def propose(
        self, logits: list[Array], deltas: list[Array], sizes: Float[Array, "B 2"], canvas: tuple[int, int], train: bool
    ) -> Proposals:
        """The proposals of each image."""
        references, spec = anchors(*canvas), self.spec
        one = partial(
            propose,
            candidates=spec.rpn_candidates[0 if train else 1],
            number=spec.proposals,
            threshold=spec.rpn_nms,
        )
        return jax.vmap(lambda o, d, s: one(o, d, references, s))(logits, deltas, sizes)


def on_canvas(images: UInt8[Array, "B H W 3"], sizes: Float[Array, "B 2"]) -> Float[Array, "B H W 3"]:
    """Normalised pixels; 0, the mean colour, outside the photo."""
    rows, columns = (jnp.arange(length) for length in images.shape[1:3])
    inside = (rows[None, :, None] < sizes[:, 0, None, None]) & (columns[None, None, :] < sizes[:, 1, None, None])
    return jnp.where(inside[..., None], normalize_pixels(images), 0)


def sample_anchors(
    spec: DetectorSpec, key: Key[Array, ""], boxes: Float[Array, "G 4"], exists: Bool[Array, " G"],
    references: Float[Array, "A 4"],
) -> tuple[Bool[Array, " A"], Bool[Array, " A"], Float[Array, "A 4"]]:  # fmt: skip
    """Which anchors of an image are positive examples, which negative ones, and the deltas of the positive ones."""
    low, high = spec.rpn_match
    index, kind = match(boxes, exists, references, low=low, high=high, best_of_object=True)
    positive, negative = sample(key, kind, spec.rpn_samples, spec.rpn_positive)
    return positive, negative, encode(boxes[index], references, RPN_WEIGHTS)


def sample_regions(
    detector: Detector, key: Key[Array, ""], proposals: Proposals, boxes: Float[Array, "G 4"],
    classes: Int[Array, " G"], exists: Bool[Array, " G"],
) -> Regions:  # fmt: skip
    """The proposals of an image, and its objects themselves, that the heads learn from."""
    spec = detector.spec
    candidates, usable = jnp.concatenate([proposals.boxes, boxes]), jnp.concatenate([proposals.exists, exists])
    index, kind = match(boxes, exists, candidates, low=spec.box_match, high=spec.box_match, best_of_object=False)
    kind = jnp.where(usable, kind, IGNORED)
    chosen, positive, drawn = first_positive(key, kind, spec.box_samples, spec.box_positive)
    objects = index[chosen]
    return Regions(
        candidates[chosen],
        objects,
        jnp.where(positive, classes[objects], detector.net.num_classes),
        positive,
        drawn,
    )


def losses(
    detector: Detector, params: Any, batch_stats: Any, batch: DetectionBatch, key: Key[Array, ""]
) -> tuple[dict[str, Array], dict[str, Array], Any]:
    """Sums of the losses over a part of the batch, what each is divided by, and the new statistics."""
    net, spec, canvas = detector.net, detector.spec, batch.images.shape[1:3]
    stats = {"batch_stats": batch_stats}

    def run(method: str, *arguments: Any) -> Any:
        nonlocal stats
        out, stats = net.apply({"params": params} | stats, *arguments, method=method, mutable=["batch_stats"])
        return out

    first, second = (jax.vmap(partial(jax.random.fold_in, k))(batch.photos) for k in jax.random.split(key))
    levels = run("levels", on_canvas(batch.images, batch.sizes), True)
    logits, deltas = run("propose", levels)
    references = jnp.concatenate([jnp.asarray(level) for level in anchors(*canvas)])
    positive, negative, targets = jax.lax.map(  # one image at a time: G x A overlaps are large
        lambda one: sample_anchors(spec, *one, references), (first, batch.boxes, batch.exists)
    )
    sums = {}
    flat = jnp.concatenate(logits, axis=1), jnp.concatenate(deltas, axis=1)
    sums["rpn_class"], sums["rpn_box"] = rpn_losses(*flat, targets, positive, negative)

    proposals = detector.propose(logits, deltas, batch.sizes, canvas, train=True)
    regions = jax.vmap(partial(sample_regions, detector))(second, proposals, batch.boxes, batch.classes, batch.exists)
    pooled = pool_regions(levels[:4], regions.boxes, STRIDES[:4], spec.box_bins)
    of_class, moves = run("classify", pooled.reshape(-1, *pooled.shape[2:]), True)
    objects = jnp.take_along_axis(batch.boxes, regions.objects[..., None], axis=1)
    wanted = encode(objects, regions.boxes, BOX_WEIGHTS).reshape(-1, 4)
    sums["class"], sums["box"] = box_losses(of_class, moves, regions.classes.ravel(), wanted, regions.drawn.ravel())
    num_drawn = regions.drawn.sum()
    per_image = jnp.asarray(spec.rpn_samples * len(batch.images))
    counts = {"rpn_class": per_image, "rpn_box": per_image, "class": num_drawn, "box": num_drawn}
    if net.masks:
        sums["mask"], counts["mask"] = _masks(detector, run, levels, regions, objects, batch)
    return sums, counts, stats["batch_stats"]


def _masks(
    detector: Detector, run: Any, levels: list[Array], regions: Regions, objects: Float[Array, "B R 4"],
    batch: DetectionBatch,
) -> tuple[Float[Array, ""], Int[Array, ""]]:  # fmt: skip
    """The mask loss of the regions with an object, which are the first of each image, and their number."""
    spec = detector.spec
    regions, objects = jax.tree.map(lambda x: x[:, : spec.box_positive], (regions, objects))
    pooled = pool_regions(levels[:4], regions.boxes, STRIDES[:4], spec.mask_bins)
    logits = run("segment", pooled.reshape(-1, *pooled.shape[2:]), True)
    masks = jnp.take_along_axis(batch.masks, regions.objects[..., None, None], axis=1)
    masks = jnp.unpackbits(masks, axis=-1).astype(jnp.float32)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (regions.boxes, objects, masks))
    wanted = mask_targets(*flat, spec.mask_side)
    positive = regions.positive.ravel() & masks.any((2, 3)).ravel()  # an object may have no outline
    return mask_loss(logits, jnp.where(positive, regions.classes.ravel(), 0), wanted, positive), positive.sum()


def sharded_losses(
    detector: Detector, params: Any, batch_stats: Any, batch: DetectionBatch, key: Key[Array, ""], mesh: Mesh
) -> tuple[dict[str, Array], Any]:
    """The losses of the global batch, each device computing its part, and the new statistics.

    Suppression loops until nothing changes: on each device for itself, not all for the slowest.
    """

    def part(params: Any, batch_stats: Any, batch: DetectionBatch, key: Key[Array, ""]) -> tuple[dict[str, Array], Any]:
        params = jax.lax.pcast(params, mesh.axis_names, to="varying")
        sums, counts, stats = losses(detector, params, batch_stats, batch, key)
        total = {name: jax.lax.psum(value, mesh.axis_names) for name, value in sums.items()}
        number = {
            name: value * mesh.size if name.startswith("rpn") else jax.lax.psum(value, mesh.axis_names)
            for name, value in counts.items()
        }
        return {name: total[name] / jnp.maximum(number[name], 1) for name in total}, stats

    everywhere, split = replicated(mesh).spec, by_batch(mesh).spec
    sharded = jax.shard_map(
        part, mesh=mesh, in_specs=(everywhere, everywhere, split, everywhere), out_specs=(everywhere, everywhere)
    )
    return sharded(params, batch_stats, batch, key)


def train_step(
    state: DetectorState, batch: DetectionBatch, detector: Detector, optimizer: optax.GradientTransformation,
    seed: int, mesh: Mesh,
) -> tuple[DetectorState, Metrics]:  # fmt: skip
    """A pure function of (state, batch). A step that is not finite changes only `step` and `bad_steps`."""
    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def loss_fn(params: Any) -> tuple[Array, tuple[dict[str, Array], Any]]:
        terms, stats = sharded_losses(detector, params, state.batch_stats, batch, key, mesh)
        return sum(terms.values()), (terms, stats)

    (loss, (terms, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new = DetectorState(state.step, optax.apply_updates(state.params, updates), stats, opt_state, state.bad_steps)
    good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    new = jax.tree.map(lambda n, o: jnp.where(good, n.astype(o.dtype), o), new, state)
    new = new.replace(step=state.step + 1, bad_steps=state.bad_steps + (1 - good.astype(jnp.int32)))
    metrics = {f"train/loss_{name}": value for name, value in terms.items()}
    return new, metrics | {"train/loss": loss, "train/grad_norm": grad_norm, "train/bad_steps": new.bad_steps}
