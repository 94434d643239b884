"""One evaluation of several checkpoints of a run, or with several seeds: `main.py ... --steps=all --seeds=0,1,2`.

Each has a folder of its own below --workdir, with its `config.json` and `results.json`, as if it had been run alone.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.evaluate.results import RESULTS, write_results
from univip_jax.report.charts import draw_curve
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.run.folder import CONFIG, write_config
from univip_jax.run.log import duration
from univip_jax.sharding import of_first_process
from univip_jax.weights.encoder import RANDOM

Evaluation = Callable[[ConfigDict, Path], None]
CURVE = "curve.png"
# What all results of a sweep share. The labelled sets carry their fingerprints: photos that were changed show here.
_SHARED = ("protocol", "pretrained", "image_size", "drawn_from", "train", "test", "classes")


def sweep(
    evaluate: Evaluation, config: ConfigDict, workdir: Path, *, steps: Sequence[str], seeds: Sequence[str]
) -> None:
    """Does what is not done yet; prints a table; writes `results.json` and, of several steps, the picture `curve.png`.

    `mean` and `deviation` (of the sample; null for one seed) in `results.json` are of the newest of the steps: taking
    the best would be choosing by the test set.

    Args:
      evaluate: a task of `main.py`, as `evaluate_knn`.
      steps: `all` or `newest`, or the steps of checkpoints; none: `config.step`.
      seeds: numbers; none: `config.seed`.

    Raises:
      UserError: no such checkpoint, or a finished evaluation in `workdir` is of other settings or data.
    """
    cells = [(step, seed) for step in _find_steps(config, steps) for seed in _numbers("seeds", seeds) or [config.seed]]
    folders = {cell: workdir / "step_{}_seed_{}".format(*cell) for cell in cells}
    begin, done = time.perf_counter(), 0
    for number, ((step, seed), folder) in enumerate(folders.items(), start=1):
        print(f"evaluation {number}/{len(cells)}: step {step}, seed {seed}", flush=True)
        if _evaluate_once(evaluate, config, step, seed, folder):
            done += 1
            left = (time.perf_counter() - begin) / done * (len(cells) - number)
            print(f"{duration(left)} left", flush=True)
        if jax.process_index() == 0:
            _check_shared(folders[cells[0]], folder)
    if jax.process_index() == 0:
        _summarize({cell: _read(folder) for cell, folder in folders.items()}, workdir)


def _numbers(flag: str, words: Sequence[str]) -> list[int]:
    """In order, each once."""
    try:
        return sorted({int(word) for word in words})
    except ValueError:
        raise UserError(f"--{flag}={','.join(words)} is no list of numbers, as 0,1,2") from None


def _find_steps(config: ConfigDict, asked: Sequence[str]) -> list[int]:
    """Steps of checkpoints that are there, oldest first; 0 for what has none: a file of weights or `random`."""
    run = config.pretrained
    if run == RANDOM or Path(run).is_file():
        if asked:
            raise UserError(f"pretrained={run} has no checkpoints: name a run's folder, or leave --steps out")
        return [0]
    with Checkpoints(Path(run)) as checkpoints:
        there = of_first_process(checkpoints.steps())
    if list(asked) == ["all"]:
        wanted = there
    elif list(asked) == ["newest"] or not (asked or config.step):
        wanted = there[-1:]
    else:
        wanted = _numbers("steps", asked) or [config.step]
    missing = [step for step in wanted if step not in there]
    if missing or not wanted:
        raise UserError(f"{run} has no checkpoint{f' of step {missing[0]}' if missing else ''}; it has {there}")
    return wanted


def _evaluate_once(evaluate: Evaluation, config: ConfigDict, step: int, seed: int, folder: Path) -> bool:
    """Evaluates unless `folder` has the result already; returns whether it had to."""
    config = config.copy_and_resolve_references()
    config.step, config.seed = step, seed
    primary, finished = jax.process_index() == 0, False
    if primary:
        folder.mkdir(parents=True, exist_ok=True)
        finished = (folder / CONFIG).exists() and _read(folder) is not None
        write_config(folder, config)
    # The folder is looked at by one process, as another may be slower than the result is written.
    if multihost_utils.broadcast_one_to_all(np.int32(finished)):
        print(f"{folder / RESULTS} is kept", flush=True)
        return False
    evaluate(config, folder)
    return True


def _read(folder: Path) -> dict | None:
    """The result in a folder; None where there is none, or one that was cut off."""
    try:
        return json.loads((folder / RESULTS).read_text())
    except (OSError, ValueError):
        return None


def _check_shared(first: Path, other: Path) -> None:
    one, two = _read(first), _read(other)
    for name in _SHARED:
        if name == "train" and "drawn_from" in one and one["seed"] != two["seed"]:
            continue  # each seed draws its own labelled part
        if one.get(name) != two.get(name):
            raise UserError(
                f"{first / RESULTS} has {name} {one.get(name)}, but {other / RESULTS} has {two.get(name)}: they are no "
                "results of one evaluation; name another --workdir, or remove the folder that is out of date"
            )


def _summarize(results: dict[tuple[int, int], dict], workdir: Path) -> None:
    """Prints the table, writes the picture and `results.json`."""
    newest = results[max(results)]
    score = "map" if "map" in newest else "top1"
    scores: dict[int, list[float]] = {}
    print(f"{'step':>9} {'seed':>6} {score:>7}")
    for (step, seed), result in results.items():
        scores.setdefault(step, []).append(result[score])
        print(f"{step:>9} {seed:>6} {result[score]:>7.2f}")
    steps = []
    for step, values in scores.items():
        deviation = statistics.stdev(values) if len(values) > 1 else None
        steps.append({"step": step, "mean": statistics.mean(values), "deviation": deviation})
        if deviation is not None:
            print(f"{step:>9} {'mean':>6} {steps[-1]['mean']:>7.2f} +- {deviation:.2f}")
    if len(scores) > 1:
        draw_curve(f"{newest['protocol']}: {score}, %, over steps", scores, workdir / CURVE)
        print(f"picture: {workdir / CURVE}")
    write_results(
        workdir,
        {name: newest[name] for name in _SHARED if name in newest and (name != "train" or "drawn_from" not in newest)}
        | {score: steps[-1]["mean"], **steps[-1]}
        | {"seeds": sorted({seed for _, seed in results}), "steps": steps}
        | {"runs": [{"step": step, "seed": seed, score: value[score]} for (step, seed), value in results.items()]},
    )
