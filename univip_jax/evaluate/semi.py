"""Semi-supervised fine-tuning (`semi_orl`; Table 6): a grid judged on held-out labels; the test set is read once.

# Deviation from the paper: its protocol chooses the grid's point on the test set. Here each point is trained on a part
of the labelled subset and judged on the rest of it; the chosen one is trained on the whole subset.
"""

import json
from functools import partial
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.common.files import at, remove_tree, write_whole
from univip_jax.data.labelled.sets import Labelled, hold_out, open_pair
from univip_jax.data.labelled.subset import drawn_subset, named_subset
from univip_jax.evaluate.finetune import Finetuning, Point, SemiSpec
from univip_jax.evaluate.sgd import DivergedError, steps_per_epoch
from univip_jax.evaluate.task import FIT_FINAL, FIT_GRID, Task, choose_best, run, spec_of
from univip_jax.run.checkpoint import FOLDER as CHECKPOINTS

SCORE = "score.json"  # where it is, the fine-tuning is done


def open_sets(config: ConfigDict, spec: SemiSpec) -> tuple[Labelled, Labelled]:
    """The labelled part of `data.train` that `data.subset` names, and the test set.

    Raises UserError where they cannot be opened, or a fine-tuning would hold less than one batch.
    """
    if not config.data.subset:
        raise UserError(
            f"data.subset is not set: --config.data.subset=drawn takes {config.labels} % of each class, "
            f"--config.data.subset=FILE the photos that a text file names, --config.data.subset=all the whole of "
            f"{config.data.train!r}"
        )
    train, test = open_pair(config.data.train, config.data.test)
    if config.data.subset == "drawn":
        train = drawn_subset(train, config.labels, config.seed)
    elif config.data.subset != "all":
        train = named_subset(train, at(config.data.subset))
    steps_per_epoch(split(train, spec)[0], spec.batch_size)
    return train, test


def split(train: Labelled, spec: SemiSpec) -> tuple[Labelled, Labelled]:
    """Photos to train the points of the grid on, and photos to judge them by; all of them where there is one point."""
    if len(spec.points) == 1:
        return train, train
    return hold_out(train, round(spec.held_out * train.num_images), spec.seed)


def fine_tune(
    tuning: Finetuning, train: Labelled, test: Labelled, point: Point, folder: Path, label: str
) -> tuple[float, float] | None:
    """Top-1 and top-5 in percent on `test`, or None where the loss diverges; kept in `folder/score.json`."""
    if (folder / SCORE).exists():
        return json.loads((folder / SCORE).read_text())
    primary, scores = jax.process_index() == 0, None
    try:
        scores = tuning.score(tuning.fit(train, point, folder, label), test)
    except DivergedError as error:
        if primary:
            print(error, flush=True)
    if primary:
        write_whole(folder / SCORE, json.dumps(scores) + "\n")
    multihost_utils.sync_global_devices(f"fine-tuned {label}")
    return scores


def judge(task: Task, spec: SemiSpec) -> dict:
    """Top-1 and top-5 in percent after fine-tuning at the best point of the grid."""
    points, primary = spec.points, jax.process_index() == 0
    if primary:
        photos = f"{task.train.num_images} labelled photos of {len(task.train.classes)} classes"
        print(f"fine-tuning {spec.num_epochs} epochs, {len(points)} points of a grid, on {photos}", flush=True)
    tuning = Finetuning(task.encoder, len(task.train.classes), spec, task.image_size)
    held_out, chosen = [None] * len(points), 0
    rest, part = split(task.train, spec)
    if len(points) > 1:
        for index, point in enumerate(points):
            folder = task.workdir / FIT_GRID / str(point)
            scores = fine_tune(tuning, rest, part, point, folder, str(point))
            held_out[index] = scores and scores[0]
            if primary:
                remove_tree(folder / CHECKPOINTS)  # its score is all that is needed
        chosen = choose_best([point._asdict() for point in points], held_out)
    best = points[chosen]
    scores = fine_tune(tuning, task.train, task.test, best, task.workdir / FIT_FINAL, f"{best} on the whole subset")
    if scores is None:
        raise UserError(f"on the whole subset the loss of {best} is not finite; lower --config.lr")
    return {
        "protocol": "semi_orl",
        "labels": spec.labels,
        "images_used": task.train.num_images,
        "top1": scores[0],
        "top5": scores[1],
        "epochs": spec.num_epochs,
        "batch_size": spec.batch_size,
        "grid": [point._asdict() | {"held_out": score} for point, score in zip(points, held_out, strict=True)],
        "chosen": best._asdict(),
        "chosen_by": f"top-1 on {part.num_images} photos held out of train, then trained on all of it; null: the loss "
        "diverged"
        if len(points) > 1
        else "the only point",
    }


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Judges the encoder by fine-tuning and writes `results.json`; resumes when run again."""
    spec = spec_of(SemiSpec, config)
    run(config, workdir, partial(open_sets, config, spec), partial(judge, spec=spec))
