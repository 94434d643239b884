"""One row with one seed: the shipped train step on views of photos in memory, and an evaluation of its features."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from benchmarks.ablation.views import make_views
from benchmarks.scenes.packed import Packed, Singles
from univip_jax.augment import normalize_pixels
from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole
from univip_jax.evaluate.logistic import fit_logistic
from univip_jax.evaluate.neighbours import knn_top1
from univip_jax.evaluate.scores import accuracy
from univip_jax.models.univip import make_backbone
from univip_jax.plan import Plan, make_plan
from univip_jax.run.health import effective_rank
from univip_jax.sharding import by_batch, make_mesh
from univip_jax.train_step import make_train_step
from univip_jax.types import Features, TrainState

_K, _TEMPERATURE = 20, 0.07  # of k-NN, as in configs/knn.py
_INVERSE_L2 = 0.1  # of the logistic probe
_BATCH = 512  # photos per forward pass
_NUM_EVALUATIONS = 4  # by k-NN while a row trains, evenly spaced
METRICS, RESULTS = "metrics.jsonl", "results.json"


def run_row(config: ConfigDict, packed: Packed, folder: Path, name: str) -> dict:
    """Trains a row and writes `metrics.jsonl` and, last, `results.json`; reads them if the row is finished."""
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
    state, overlap = _train(plan, packed, folder, name, config.log_every_steps)
    results = {
        "row": name,
        "seed": config.seed,
        "steps": plan.total_steps,
        "overlap": overlap,
        **_evaluate(plan, state, packed, probe=True),
        "seconds": time.monotonic() - start,
        "config": wanted,
    }
    write_whole(folder / RESULTS, json.dumps(results, indent=2) + "\n")  # last: it marks the row as finished
    return results


def _train(plan: Plan, packed: Packed, folder: Path, name: str, log_every: int) -> tuple[TrainState, float]:
    """The state after the last step, and the mean share of the photo that is the scenes' overlap.

    Raises UserError if a step is not finite: it would be skipped, and rows would differ in length.
    """
    mesh, seed, batch = make_mesh(), plan.seed, plan.batch_size
    step_fn, state = make_train_step(plan, mesh), plan.init_state()
    scenes = jax.tree.map(jnp.asarray, packed.scenes)
    evaluate_every, overlaps, window = max(1, plan.total_steps // _NUM_EVALUATIONS), [], []
    with (folder / METRICS).open("w") as file, tqdm(total=plan.total_steps, unit="step", desc=name) as bar:
        for step in range(plan.total_steps):
            epoch, position = divmod(step, plan.steps_per_epoch)
            if position == 0:
                order = np.random.default_rng([seed, epoch]).permutation(len(scenes.photos))
            rows = order[position * batch : (position + 1) * batch]
            key = jax.random.fold_in(jax.random.key(seed + 1), step)  # the step itself uses key(seed)
            views, overlap = make_views(key, *(part[rows] for part in scenes), spec=plan.views)
            state, metrics = step_fn(state, jax.device_put(views, by_batch(mesh)))
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
    return state, float(np.mean(overlaps))


def _evaluate(plan: Plan, state: TrainState, packed: Packed, *, probe: bool) -> dict[str, float]:
    """k-NN and logistic probe on held-out single photos (percent), and the effective rank of their features."""
    backbone = make_backbone(replace(plan.model, dtype="float32"))
    variables = {"params": state.params["encoder"]["backbone"], "batch_stats": state.batch_stats["encoder"]["backbone"]}
    apply = jax.jit(lambda variables, images: backbone.apply(variables, normalize_pixels(images), train=False))

    def features(singles: Singles) -> Features:
        parts = [singles.photos[start : start + _BATCH] for start in range(0, len(singles.photos), _BATCH)]
        return Features(np.concatenate([np.asarray(apply(variables, part)) for part in parts]), singles.labels)

    train, test = features(packed.train), features(packed.test)
    scores = {"knn": knn_top1(train, test, _K, _TEMPERATURE), "effective_rank": effective_rank(test.features)}
    if probe:
        try:
            scores["probe"] = accuracy(fit_logistic(train, test.features, _INVERSE_L2), test.labels, 1)
        except UserError as error:  # a probe that does not converge does not spoil the row
            print(f"no probe for this row: {error}", file=sys.stderr)
    return scores


def untrained(config: ConfigDict, packed: Packed) -> dict:
    """The scores of the network before training."""
    plan = make_plan(config, len(packed.scenes.photos))
    return {"row": "untrained", "seed": config.seed, **_evaluate(plan, plan.init_state(), packed, probe=True)}
