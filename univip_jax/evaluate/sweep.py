"""One evaluation of several checkpoints of a run, or with several seeds: `main.py ... --steps=all --seeds=0,1,2`.

Each has a folder of its own below --workdir, as if it had been run alone.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.common.files import at
from univip_jax.evaluate.results import read_results, write_results
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.run.cluster import held_by_first
from univip_jax.sharding import of_first_process
from univip_jax.weights.encoder import RANDOM

Evaluation = Callable[[ConfigDict, Path], None]
# What all results of a sweep share; each seed of semi may draw its own part of `drawn_from` to train on.
_SHARED = ("protocol", "pretrained", "image_size", "drawn_from", "train", "test", "classes")


def sweep(
    evaluate: Evaluation, config: ConfigDict, workdir: Path, *, steps: Sequence[str], seeds: Sequence[str]
) -> None:
    """Runs the evaluations that are not done; prints a table and writes `results.json`.

    `mean` and `std` (of the sample; null for one seed) in `results.json` are for the newest step: to take the best one
    would be to choose by the test set. `steps` has them for each step, `runs` the score of each evaluation.

    Args:
      evaluate: a task of `main.py`, as `knn.evaluate`. It skips what is finished, and refuses other settings or data.
      steps: `all` or `newest`, or the steps of checkpoints; none: `config.step`.
      seeds: numbers; none: `config.seed`.

    Raises:
      UserError: there is no such checkpoint, or an evaluation in `workdir` is of other settings or data.
    """
    cells = [(step, seed) for step in _find_steps(config, steps) for seed in _numbers("seeds", seeds) or [config.seed]]
    folders = {cell: workdir / "step_{}_seed_{}".format(*cell) for cell in cells}
    for number, ((step, seed), folder) in enumerate(folders.items(), start=1):
        print(f"evaluation {number}/{len(cells)}: step {step}, seed {seed}", flush=True)
        one = config.copy_and_resolve_references()
        one.step, one.seed = step, seed
        with held_by_first(folder):
            evaluate(one, folder)
    if jax.process_index() == 0:
        _summarize({cell: read_results(folder) for cell, folder in folders.items()}, workdir)


def _numbers(flag: str, words: Sequence[str]) -> list[int]:
    """In order, each once."""
    try:
        return sorted({int(word) for word in words})
    except ValueError:
        raise UserError(f"--{flag}={','.join(words)} must be a list of numbers, as 0,1,2") from None


def _find_steps(config: ConfigDict, asked: Sequence[str]) -> list[int]:
    """The steps asked for, oldest first; 0 for what has no checkpoints: a file of weights or `random`."""
    run = config.pretrained
    if run == RANDOM or at(run).is_file():
        if asked:
            raise UserError(f"pretrained={run} has no checkpoints: name a run's folder, or leave out --steps")
        return [0]
    with Checkpoints(at(run)) as checkpoints:
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


def _summarize(results: dict[tuple[int, int], dict], workdir: Path) -> None:
    """Prints the table and writes `results.json`."""
    newest = results[max(results)]
    score = "map" if "map" in newest else "top1"
    scores: dict[int, list[float]] = {}
    print(f"{'step':>9} {'seed':>6} {score:>7}")
    for (step, seed), result in results.items():
        scores.setdefault(step, []).append(result[score])
        print(f"{step:>9} {seed:>6} {result[score]:>7.2f}")
    steps = []
    for step, values in scores.items():
        std = statistics.stdev(values) if len(values) > 1 else None
        steps.append({"step": step, "mean": statistics.mean(values), "std": std})
        if std is not None:
            print(f"{step:>9} {'mean':>6} {steps[-1]['mean']:>7.2f} +- {std:.2f}")
    write_results(
        workdir,
        {name: newest[name] for name in _SHARED if name in newest and (name != "train" or "drawn_from" not in newest)}
        | {score: steps[-1]["mean"], **steps[-1]}
        | {"seeds": sorted({seed for _, seed in results}), "steps": steps}
        | {"runs": [{"step": step, "seed": seed, score: value[score]} for (step, seed), value in results.items()]},
    )
