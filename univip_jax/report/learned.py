"""What a run's network sees in its own photos, before and after training: a part of the page."""

import html
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key, UInt8
from ml_collections import ConfigDict

from univip_jax.augment import AugmentSpec, augment_batch
from univip_jax.common.errors import UserError
from univip_jax.config import to_spec
from univip_jax.data.index import evenly_spread
from univip_jax.data.records import Dataset, open_dataset
from univip_jax.evaluate.features import fill_batch, progress_bar
from univip_jax.report.maps import draw_similarity
from univip_jax.report.markup import photo, tile
from univip_jax.report.neighbours import NEIGHBOURS, QUERIES, draw_neighbours
from univip_jax.report.photo_map import draw_map, flatten
from univip_jax.report.recognition import draw_recognition
from univip_jax.report.sample import Sample, read_sample
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.views import ViewSpec
from univip_jax.weights.encoder import Encoder, load_encoder
from univip_jax.weights.warm_start import starting_encoder

_BATCH = 16  # images at once
_NEAR_ONE = 0.8  # mean IoU of two scenes: those of views.area=(0.65, 1) have it
_HTML = """<h2>What the network sees in your photos</h2>
<p>{count} of {total} photos, evenly spread over the data set, by the backbone before its first step ({start} weights)
and after step {step}. Photos are central squares, instances are boxes that the data set holds. The mouse over a picture
shows the photo's name.</p>
{recognition}
<p><b>What the rest can tell.</b> Without labels, you are the judge: whether photos that belong together for you lie
together after training, and did not before. Features that collapsed, or that follow only colours or only the place,
show here. It cannot tell whether the features are good for your task: two photos may be near each other for a reason
that you do not need. A few labelled photos of each class can: <code>univip_jax.pretrain --labelled=DIR</code>.</p>
<h3>Nearest neighbours of photos</h3>
<p>The {neighbours} most similar of the other photos, with the cosine of their features; framed: the same photo before
and after ({stayed:.0%} of them). Healthy: after training, neighbours show the same kind of scene or object in other
colours and places. A network of random weights mostly finds the same colours and layout.</p>
{photos}"""
_INSTANCES = """<h3>Nearest neighbours of instances</h3>
<p>The same for {queries} of {count} instances, at most four of a photo, evenly spread over its list of boxes;
neighbours are of other photos ({stayed:.0%} are the same before and after). Healthy: after training, neighbours are the
same kind of thing.</p>
{rows}"""
_NO_INSTANCES = "<p>None of these photos has a box in the data set, so no instances are shown.</p>"
_MAP = """<h3>Map of the photos</h3>
<p>Near photos have similar features. By {methods}; the {framed} photos whose neighbours are shown above have a frame of
the same colour on both maps. Healthy: after training, regions of the map have a theme, as a kind of scene or object.
One line, one heap, or an order by brightness or colour alone is not. Distances between far regions mean nothing.</p>
<div class=maps>{maps}</div>"""


class Seen(NamedTuple):
    """Features of a sample by one network."""

    scenes: Float[np.ndarray, "n F"]
    pairs: Float[np.ndarray, "n 2 F"]  # augmented as in training
    instances: Float[np.ndarray, "m F"]


def draw_learned(run: Path, config: ConfigDict, count: int) -> tuple[str, list[str]]:
    """The part of the page on `count` photos of a pre-training run, and warnings; without them, why there are none."""
    try:
        dataset, after = _open(run, config)
        views = to_spec(ViewSpec, config, "views")
        sample = read_sample(dataset, views, config.seed, count)
        page, warnings = _draw(config, dataset, sample, starting_encoder(run), after)
        return page, _warnings(sample) + warnings
    except UserError as error:
        return "", [f"No photos are drawn: {error}"]


def _open(run: Path, config: ConfigDict) -> tuple[Dataset, Encoder]:
    """The data set of a run and its newest encoder. Raises UserError where either is missing, or is another one."""
    encoder, dataset = load_encoder(run), open_dataset(config.data.train)
    with Checkpoints(run) as checkpoints:
        trained_on = checkpoints.read_meta(encoder.step)["fingerprint"]
    if trained_on != dataset.fingerprint:
        raise UserError(
            f"{dataset.root} is not the data set that {run} was trained on (fingerprint {dataset.fingerprint[:12]}, "
            f"then {trained_on[:12]}): put that one there, and write the report again"
        )
    return dataset, encoder


def _draw(
    config: ConfigDict, dataset: Dataset, sample: Sample, start: Encoder, after: Encoder
) -> tuple[str, list[str]]:
    encoders, photos, names = (start, after), np.arange(len(sample.names)), sample.names
    old, new = _see(encoders, sample, to_spec(AugmentSpec, config, "augment"), config.seed)
    recognition, warnings = draw_recognition(old.pairs, new.pairs)
    rows, stayed = draw_neighbours(old.scenes, new.scenes, photos, sample.scene_thumbs, names)
    parts = [
        _HTML.format(
            count=len(photos),
            total=dataset.num_records,
            step=after.step,
            recognition=recognition,
            start=html.escape(after.started_from.get("source", "random")),
            neighbours=NEIGHBOURS,
            stayed=stayed,
            photos=rows,
        )
    ]
    if count := len(sample.instances):
        rows, stayed = draw_neighbours(old.instances, new.instances, sample.owners, sample.instance_thumbs, names)
        parts.append(_INSTANCES.format(queries=min(QUERIES, count), count=count, stayed=stayed, rows=rows))
    else:
        parts.append(_NO_INSTANCES)
    parts.append(_draw_maps(old, new, sample))
    parts.append(draw_similarity(encoders, dataset, sample, to_spec(ViewSpec, config, "views"), new.scenes))
    return "".join(parts), warnings


def _draw_maps(old: Seen, new: Seen, sample: Sample) -> str:
    framed, maps, methods = evenly_spread(len(sample.names), QUERIES).tolist(), [], []
    for seen, text in ((old, "before training"), (new, "after")):
        places, method = flatten(seen.scenes)
        methods.append(method)
        maps.append(tile(photo(draw_map(places, sample.scene_thumbs, framed), f"map of photos, {text}"), text))
    methods = " and ".join(dict.fromkeys(methods))
    return _MAP.format(methods=methods, framed=len(framed), maps="".join(maps))


def _see(encoders: tuple[Encoder, Encoder], sample: Sample, spec: AugmentSpec, seed: int) -> list[Seen]:
    """Features by each of the encoders, which have one architecture."""
    plain, augmented = jax.jit(encoders[0].apply), jax.jit(partial(_augmented, encoders[0], spec), static_argnums=3)
    count = len(sample.scenes)
    key = jax.random.key(seed)
    with progress_bar(2 * (3 * count + len(sample.instances)), "picture", "features for the report") as bar:

        def by_batch(images: UInt8[np.ndarray, "n S S 3"], compute: Callable[..., Array]) -> np.ndarray:
            found = []
            for first in range(0, len(images), _BATCH):
                some = images[first : first + _BATCH]
                found.append(np.asarray(compute(fill_batch(some, _BATCH), jax.random.fold_in(key, first)))[: len(some)])
                bar.update(len(some))
            return np.concatenate(found) if found else np.zeros((0, 1), np.float32)

        seen = []
        for variables in (encoder.variables for encoder in encoders):
            pairs = [
                by_batch(sample.pairs[:, view], lambda x, key, v=variables, view=view: augmented(v, x, key, view))
                for view in (0, 1)
            ]
            scenes, instances = (
                by_batch(images, lambda x, _, v=variables: plain(v, x)) for images in (sample.scenes, sample.instances)
            )
            seen.append(Seen(scenes, np.stack(pairs, 1), instances))
    return seen


def _augmented(
    encoder: Encoder, spec: AugmentSpec, variables: Any, images: UInt8[Array, "N S S 3"], key: Key[Array, ""], view: int
) -> Float[Array, "N F"]:
    """Features of images, augmented as a scene's first (0) or second (1) view."""
    images = augment_batch(jax.random.fold_in(key, view), images, spec, view=view)
    return encoder.backbone.apply(variables, images, train=False)


def _warnings(sample: Sample) -> list[str]:
    if sample.overlap <= _NEAR_ONE:
        return []
    return [
        f"The two scenes of a photo overlap near 1: their mean IoU is {sample.overlap:.2f} (healthy: below "
        f"{_NEAR_ONE:g}), so both show the same and there is little to learn from. Train in another --workdir with "
        "smaller crops: --config.views.area='(0.08, 1.0)'"
    ]
