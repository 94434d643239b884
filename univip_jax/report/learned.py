"""What a run's network sees in its own photos, before and after training: a part of the page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict
from tqdm import tqdm

from univip_jax.common.errors import UserError
from univip_jax.config import to_spec
from univip_jax.data.records import Dataset, open_dataset
from univip_jax.evaluate.features import fill_batch, progress_bar
from univip_jax.report.neighbours import NEIGHBOURS, QUERIES, draw_neighbours
from univip_jax.report.sample import Sample, read_sample
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.views import ViewSpec
from univip_jax.weights.encoder import Encoder, load_encoder, starting_encoder

_BATCH = 16  # images at once
_NEAR_ONE = 0.8  # mean IoU of two scenes: those of views.area=(0.65, 1) have it
_HTML = """<h2>What the network sees in your photos</h2>
<p>{count} of {total} photos, evenly spread over the data set, by the backbone before its first step and after step
{step}. Photos are central squares, instances are boxes that the data set holds. The mouse over a picture shows the
photo's name.</p>
<p><b>What this can tell.</b> Without labels, you are the judge: whether photos that belong together for you lie
together after training, and did not before. Features that collapsed, that did not change, or that follow only colour
or only the place show here. It cannot tell whether the features are good for your task: that two photos are near each
other is right or wrong only by what you need. A few labelled photos of each class can (k-NN or a linear probe).</p>
<h3>Nearest neighbours of photos</h3>
<p>The {neighbours} most similar of the other photos, with the cosine of their features; framed: the same photo before
and after ({stayed:.0%} of them). Healthy: after training, neighbours show the same kind of scene or object in other
colours and places. A network before training mostly finds the same colours and layout.</p>
{photos}"""
_INSTANCES = """<h3>Nearest neighbours of instances</h3>
<p>The same for {queries} of {count} instances, at most four of a photo, evenly spread over its list of boxes;
neighbours are of other photos ({stayed:.0%} are the same before and after). Healthy: after training, neighbours are the
same kind of thing.</p>
{rows}"""
_NO_INSTANCES = "<p>None of these photos has a box in the data set, so no instances are shown.</p>"


class Seen(NamedTuple):
    """Features of a sample by one network."""

    scenes: Float[np.ndarray, "n F"]
    instances: Float[np.ndarray, "m F"]


def draw_learned(run: Path, config: ConfigDict, count: int) -> tuple[str, list[str]]:
    """The part of the page on `count` photos of a pre-training run, and warnings; without them, why there are none."""
    try:
        dataset, after = _open(run, config)
        views = to_spec(ViewSpec, config, "views")
        sample = read_sample(dataset, views, config.seed, count)
        return _draw(dataset, sample, starting_encoder(run), after), _warnings(sample)
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


def _draw(dataset: Dataset, sample: Sample, start: Encoder, after: Encoder) -> str:
    compute = jax.jit(after.apply)  # one program for both
    total = 2 * (len(sample.scenes) + len(sample.instances))
    with progress_bar(total, "picture", "features for the report") as bar:
        old, new = (_see(compute, encoder.variables, sample, bar) for encoder in (start, after))
    photos = np.arange(len(sample.names))
    names = sample.names
    rows, stayed = draw_neighbours(old.scenes, new.scenes, photos, sample.scene_thumbs, names)
    page = _HTML.format(
        count=len(photos), total=dataset.num_records, step=after.step, neighbours=NEIGHBOURS, stayed=stayed, photos=rows
    )
    if not len(sample.instances):
        return page + _NO_INSTANCES
    rows, stayed = draw_neighbours(old.instances, new.instances, sample.owners, sample.instance_thumbs, names)
    queries = min(QUERIES, len(sample.instances))
    return page + _INSTANCES.format(queries=queries, count=len(sample.instances), stayed=stayed, rows=rows)


def _see(compute: Callable[..., jax.Array], variables: Any, sample: Sample, bar: tqdm) -> Seen:
    def features(images: UInt8[np.ndarray, "n S S 3"]) -> Float[np.ndarray, "n F"]:
        found = []
        for first in range(0, len(images), _BATCH):
            some = images[first : first + _BATCH]
            found.append(np.asarray(compute(variables, fill_batch(some, _BATCH)))[: len(some)])
            bar.update(len(some))
        return np.concatenate(found) if found else np.zeros((0, 1), np.float32)

    return Seen(features(sample.scenes), features(sample.instances))


def _warnings(sample: Sample) -> list[str]:
    if sample.overlap <= _NEAR_ONE:
        return []
    return [
        f"The two scenes of a photo overlap near 1: their mean IoU is {sample.overlap:.2f} (healthy: below "
        f"{_NEAR_ONE:g}), so both show the same and there is little to learn from. Train in another --workdir with "
        "smaller crops: --config.views.area='(0.08, 1.0)'"
    ]
