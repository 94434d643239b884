"""One row with one seed: the shipped train step on views of photos in memory, and an evaluation of its features."""

import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict
from tqdm import tqdm

from benchmarks.ablation.table import RESULTS
from benchmarks.scenes.packed import Packed, Singles
from univip_jax.augment import normalize_pixels
from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole
from univip_jax.crops import area, intersection
from univip_jax.cut import compile_cut, shapes_of
from univip_jax.evaluate.logistic import fit_logistic
from univip_jax.evaluate.neighbours import knn_top1
from univip_jax.evaluate.scores import accuracy
from univip_jax.models.norm import MOMENTUM
from univip_jax.models.univip import ModelSpec, make_backbone
from univip_jax.plan import Plan, make_plan
from univip_jax.run.health import backbone_variables, effective_rank
from univip_jax.sharding import by_batch, make_mesh, replicated
from univip_jax.train_step import compile_step
from univip_jax.types import Features, Photos, TrainState

_K, _TEMPERATURE = 20, 0.07  # of k-NN, as in configs/knn.py
_INVERSE_L2 = 0.1  # of the logistic probe
_BATCH = 512  # photos per forward pass
_NUM_EVALUATIONS = 4  # by k-NN while a row trains, evenly spaced
METRICS, UNTRAINED = "metrics.jsonl", "untrained"


def run_row(config: ConfigDict, packed: Packed, folder: Path, name: str) -> dict:
    """Trains a row and writes `metrics.jsonl` and, last, `results.json`; reads them if the row is finished.

    The row `untrained` is evaluated as it is.
    """
    wanted = json.loads(config.to_json()) | {"data.train": packed.fingerprint}
    if (folder / RESULTS).exists():
        found = json.loads((folder / RESULTS).read_text())
        if found["config"] != wanted:
            raise UserError(f"{folder} has a row of another config or other scenes: name another --workdir")
        return found
    folder.mkdir(parents=True, exist_ok=True)
    plan, start = make_plan(config, len(packed.scenes.photos)), time.monotonic()
    if len(packed.scenes.photos) < plan.batch_size:
        raise UserError(f"batch_size={plan.batch_size} is more than the {len(packed.scenes.photos)} scenes: lower it")
    if name == UNTRAINED:
        state, seen = plan.init_state(), {}
    else:
        state, seen = _train(plan, packed, folder, name, config.log_every_steps)
    results = {
        "row": name,
        "seed": config.seed,
        **seen,
        **_evaluate(plan, state, packed, probe=True),
        "seconds": time.monotonic() - start,
        "config": wanted,
    }
    write_whole(folder / RESULTS, json.dumps(results, indent=2) + "\n")  # last: it marks the row as finished
    return results


def _train(plan: Plan, packed: Packed, folder: Path, name: str, log_every: int) -> tuple[TrainState, dict]:
    """The state after the last step, the mean share of the photo that is the scenes' overlap, the last plan metrics.

    Raises UserError if a step is not finite: it would be skipped, and rows would differ in length.
    """
    mesh, seed, batch = make_mesh(), plan.seed, plan.batch_size
    step_fn = compile_step(replace(plan, seed=0), mesh)  # its seed is that of augmentation; seeds share the compilation
    state = jax.device_put(plan.init_state(), replicated(mesh))
    boxes = packed.scenes.objects if plan.views.proposals == "annotated" else packed.scenes.proposals
    scenes = jnp.asarray(packed.scenes.photos), jnp.asarray(boxes)
    shapes = shapes_of(_photos(scenes, np.arange(batch), 0))
    cut = compile_cut(plan.views, seed, shapes, mesh)
    evaluate_every, overlaps, window = max(1, plan.total_steps // _NUM_EVALUATIONS), [], []
    with (folder / METRICS).open("w") as file, tqdm(total=plan.total_steps, unit="step", desc=name) as bar:
        for step in range(plan.total_steps):
            epoch, position = divmod(step, plan.steps_per_epoch)
            if position == 0:
                order = np.random.default_rng([seed, epoch]).permutation(len(packed.scenes.photos))
            rows = order[position * batch : (position + 1) * batch]
            views, geometry = cut(jax.device_put(_photos(scenes, rows, epoch), by_batch(mesh)))
            state, metrics = step_fn(state, views)
            overlap = area(intersection(geometry.scenes[:, 0], geometry.scenes[:, 1]))
            window.append(metrics | {"overlap": overlap.mean()})
            done = step + 1
            if done % log_every == 0 or done % evaluate_every == 0 or done == plan.total_steps:
                window = jax.device_get(window)
                means = {name: float(np.mean([metrics[name] for metrics in window])) for name in window[-1]}
                if means["train/bad_steps"]:
                    raise UserError(f"{folder}: a step up to {done} was not finite: lower optimizer.lr")
                overlaps += [means["overlap"]] * len(window)
                if done % evaluate_every == 0:
                    means |= _evaluate(plan, state, packed, probe=False)
                file.write(json.dumps({"step": done, **means}) + "\n")
                file.flush()
                bar.set_postfix(loss=means["train/loss"], refresh=False)
                bar.update(len(window))
                window = []
    last = {name: value for name, value in means.items() if name.startswith("plan/")}
    return state, {"steps": plan.total_steps, "overlap": float(np.mean(overlaps)), **last}


def _photos(scenes: tuple[UInt8[Array, "N S S 3"], Float[Array, "N P 4"]], rows: np.ndarray, epoch: int) -> Photos:
    """Some of the scenes, as the host would ship them: square, each filling its canvas."""
    photos, boxes = (part[rows] for part in scenes)
    side = photos.shape[1]
    size = jnp.full((len(rows), 2), side, jnp.int32)
    draw = jnp.stack([jnp.full(len(rows), epoch, jnp.int32), jnp.asarray(rows, jnp.int32)], 1)
    return Photos(photos.reshape(len(rows), side, 3 * side), size, size, boxes, draw)


def _evaluate(plan: Plan, state: TrainState, packed: Packed, *, probe: bool) -> dict[str, float]:
    """Scores of the held-out single photos: `knn`, `rank` and, if asked for, `probe`.

    Of features by running statistics re-estimated on the labelled training photos; with the probe also
    `as_trained/...`, by those of the training, a mixture of scenes and instances.
    """
    model, variables = replace(plan.model, dtype="float32"), backbone_variables(state)
    kinds = {"": variables | {"batch_stats": mean_statistics(model, variables["params"], packed.train.photos)}}
    if probe:
        kinds["as_trained/"] = variables

    def features(variables: dict, singles: Singles) -> Features:
        parts = [singles.photos[start : start + _BATCH] for start in range(0, len(singles.photos), _BATCH)]
        return Features(np.concatenate([np.asarray(_apply(variables, part, model)) for part in parts]), singles.labels)

    scores = {}
    for prefix, which in kinds.items():
        train, test = features(which, packed.train), features(which, packed.test)
        scores[f"{prefix}knn"] = knn_top1(train, test, _K, _TEMPERATURE)
        scores[f"{prefix}rank"] = effective_rank(test.features - test.features.mean(0))
        if probe:
            try:
                log_probabilities = fit_logistic(train, test.features, _INVERSE_L2)
                scores[f"{prefix}probe"] = accuracy(log_probabilities, test.labels, 1)
            except UserError as error:  # a probe that does not converge does not spoil the row
                print(f"no {prefix}probe for this row: {error}", file=sys.stderr)
    return scores


@partial(jax.jit, static_argnames="model")
def _apply(variables: dict, images: UInt8[Array, "N S S 3"], model: ModelSpec) -> Float[Array, "N F"]:
    return make_backbone(model).apply(variables, normalize_pixels(images), train=False)


def mean_statistics(model: ModelSpec, params: dict, photos: UInt8[np.ndarray, "N S S 3"]) -> dict:
    """Batch norm's statistics, averaged over whole batches of the photos in random order; one batch at least."""
    batch = min(_BATCH, len(photos))
    order = np.random.default_rng(0).permutation(len(photos))  # they are sorted by class
    ends = range(batch, len(photos) + 1, batch)
    found = [_statistics(params, photos[order[end - batch : end]], model) for end in ends]
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *found)


@partial(jax.jit, static_argnames="model")
def _statistics(params: dict, images: UInt8[Array, "N S S 3"], model: ModelSpec) -> dict:
    """Of one batch."""
    backbone, images = make_backbone(model), normalize_pixels(images)
    like = jax.eval_shape(partial(backbone.init, train=True), jax.random.key(0), images)["batch_stats"]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    _, new = backbone.apply({"params": params, "batch_stats": zeros}, images, train=True, mutable=["batch_stats"])
    # The moving average of zeros and the batch's.
    return jax.tree.map(lambda leaf: leaf / (1 - MOMENTUM), new["batch_stats"])
