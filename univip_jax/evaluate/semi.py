"""Semi-supervised fine-tuning (`semi_orl`; Table 6): a grid judged on held-out labels, then one reading of the
test set.

# Deviation from the paper: its protocol's grid is chosen by the test set. Here each point is trained on a part of the
labelled subset and judged on the rest of it; the chosen one is trained on the whole subset.
"""

import itertools
import math
import sys
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import Labelled, hold_out, open_pair
from univip_jax.data.labelled.subset import drawn_subset, named_subset
from univip_jax.evaluate.finetune import Finetuning, Recipe
from univip_jax.evaluate.results import write_results
from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.run.folder import write_config
from univip_jax.sharding import make_mesh, replicated
from univip_jax.weights.encoder import open_encoder

_KEPT = 2  # checkpoints: the one before the newest serves where that is damaged


class Point(NamedTuple):
    """Of the grid; `lr` is for a batch of 256."""

    lr: float
    head_multiplier: float


class Score(NamedTuple):
    """Percent."""

    top1: float
    top5: float


class Stage(NamedTuple):
    """One fine-tuning: on what, and by what it is judged."""

    train: Labelled
    judge: Labelled


def open_subset(config: ConfigDict) -> tuple[Labelled, Labelled, Labelled]:
    """`data.train`, the labelled part of it, as `data.subset` says, and the test set."""
    if not config.data.subset:
        raise UserError(
            "data.subset is not set: a text file that names the labelled photos, `drawn` for "
            f"{config.labels} % of each class, or `all` where data.train={config.data.train!r} is the subset itself"
        )
    train, test = open_pair(config.data.train, config.data.test)
    if config.data.subset == "drawn":
        return train, drawn_subset(train, config.labels, config.seed), test
    if config.data.subset != "all":
        return train, named_subset(train, Path(config.data.subset)), test
    return train, train, test


def best(grid: list[Point], scores: list[Score | None]) -> Point:
    """The point of the highest top-1, the first of equals; UserError where no point has a score."""
    scored = [(score.top1, point) for score, point in zip(scores, grid, strict=True) if score]
    if not scored:
        raise UserError(f"no point of the grid has a finite loss, of {grid}; lower --config.lr")
    return max(scored, key=lambda pair: pair[0])[1]


def make_stages(config: ConfigDict, grid: list[Point], subset: Labelled, test: Labelled) -> list[Stage]:
    """A stage for each point, and the last one, whose test set is read once; that one alone where nothing is to choose.

    Raises UserError where a stage holds less than one batch.
    """
    stages = [Stage(subset, test)]
    if len(grid) > 1:
        judging = Stage(*hold_out(subset, round(config.held_out * subset.num_images), config.seed))
        stages = [judging] * len(grid) + stages
    fewest = stages[0].train
    if fewest.num_images < config.batch_size:
        raise UserError(
            f"batch_size={config.batch_size} is more than the {fewest.num_images} photos of {fewest.name}; lower "
            "--config.batch_size, with which the rates shrink"
        )
    return stages


class Search:
    """The stages one after the other, saved after each epoch: the same command goes on from there.

    The step of a checkpoint counts the epochs of all stages. A stage whose loss is not finite ends early, without a
    score. `same` is what must not change when a search goes on, by name.
    """

    def __init__(
        self, tuning: Finetuning, grid: list[Point], stages: list[Stage], checkpoints: Checkpoints, same: dict
    ):
        """Takes up the newest checkpoint; UserError where something of `same` was another one then."""
        self._tuning, self._grid, self._stages = tuning, grid, stages
        self._checkpoints, self._same = checkpoints, same
        self._talks = jax.process_index() == 0
        self.scores: list[Score | None] = []  # of finished stages
        self._epochs_done, self._state = 0, None
        if checkpoints.steps():
            like = jax.eval_shape(tuning.start)
            self._epochs_done, self._state, meta = checkpoints.restore_newest(like, replicated(tuning.mesh))
            for name, value in same.items():
                if meta[name] != value:
                    raise UserError(
                        f"{checkpoints.folder.parent} was begun with {name} {meta[name]}, and now that is {value}: "
                        "choose another --workdir"
                    )
            self.scores = [score and Score(*score) for score in meta["scores"]]

    def run(self) -> None:
        """Fine-tunes from where the search stands to its end."""
        num_epochs, steps = self._tuning.recipe.num_epochs, [self._tuning.num_steps(s.train) for s in self._stages]
        stage, epoch = divmod(self._epochs_done, num_epochs)
        done = sum(steps[:stage]) * num_epochs + (steps[stage] * epoch if epoch else 0)
        every = 0.1 if sys.stderr.isatty() else 60  # s; a log file needs no more
        total = sum(steps) * num_epochs
        with tqdm(
            total=total, initial=done, unit="step", smoothing=0, mininterval=every, disable=not self._talks
        ) as bar:
            for index in range(stage, len(self._stages)):
                self._run_stage(index, epoch, bar)
                epoch = 0

    def chosen(self) -> Point:
        """The point of the last stage."""
        return best(self._grid, self.scores[: len(self._grid)]) if len(self._grid) > 1 else self._grid[0]

    def _run_stage(self, index: int, first_epoch: int, bar: tqdm) -> None:
        stage, is_last = self._stages[index], index + 1 == len(self._stages)
        num_epochs, num_steps = self._tuning.recipe.num_epochs, self._tuning.num_steps(stage.train)
        point = self.chosen() if is_last else self._grid[index]
        named = f"lr {point.lr:g}, head x{point.head_multiplier:g}"
        state = self._state if first_epoch else self._tuning.start()
        batches = self._tuning.batches(stage.train, first_epoch)
        for epoch in range(first_epoch, num_epochs):
            bar.set_description(f"{index + 1}/{len(self._stages)}: {named}, epoch {epoch + 1}/{num_epochs}")
            one_epoch = itertools.islice(batches, num_steps)
            state, loss = self._tuning.train_epoch(state, one_epoch, epoch, **point._asdict(), on_step=bar.update)
            bar.set_postfix(loss=f"{loss:.3f}")
            finite, epochs_done = math.isfinite(loss), index * num_epochs + epoch + 1
            if not finite and is_last:
                raise UserError(f"on the whole subset the loss of {named} is not finite; take it out of --config.lr")
            if not finite or epoch + 1 == num_epochs:
                score = Score(*self._tuning.score(state, stage.judge)) if finite else None
                self.scores.append(score)
                said = f"top-1 {score.top1:.2f} %" if score else f"the loss is not finite in epoch {epoch + 1}"
                if self._talks:
                    bar.write(f"{named}, {stage.judge.num_images} photos: {said}")
                bar.total -= (num_epochs - epoch - 1) * num_steps
                epochs_done = (index + 1) * num_epochs
            self._checkpoints.save(epochs_done, state, {**self._same, "scores": self.scores})
            if not finite:
                return


def make_recipe(config: ConfigDict, image_size: int) -> Recipe:
    """What all points share; UserError where there would be no point or no epoch."""
    if not config.lr or not config.head_multiplier or config.num_epochs < 1:
        raise UserError(
            f"lr={config.lr} and head_multiplier={config.head_multiplier} must each hold a number, and "
            f"num_epochs={config.num_epochs} be at least 1"
        )
    return Recipe(
        seed=config.seed,
        image_size=image_size,
        batch_size=config.batch_size,
        num_epochs=config.num_epochs,
        milestones=config.milestones,
        decay=config.decay,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def make_grid(config: ConfigDict) -> list[Point]:
    """Each rate with each multiplier."""
    return [Point(*values) for values in itertools.product(config.lr, config.head_multiplier)]


def evaluate_semi(config: ConfigDict, workdir: Path) -> None:
    """Writes `results.json`: top-1 and top-5 in percent on the test set, and every point of the grid.

    Raises UserError where the config, a data set, or what `workdir` holds does not fit.
    """
    encoder = open_encoder(config)
    recipe = make_recipe(config, config.image_size or encoder.image_size)
    whole, subset, test = open_subset(config)
    grid = make_grid(config)
    stages = make_stages(config, grid, subset, test)
    primary = jax.process_index() == 0
    if primary:
        photos = f"{subset.num_images} labelled photos of {len(subset.classes)} classes"
        print(f"{len(stages)} fine-tunings of {recipe.num_epochs} epochs on {photos}; compiling ...", flush=True)
    tuning = Finetuning(encoder, len(subset.classes), recipe, make_mesh())
    if primary:
        workdir.mkdir(parents=True, exist_ok=True)
        write_config(workdir, config)
    same = {"the step of pretrained": encoder.step, "the subset": subset.fingerprint, "the test set": test.fingerprint}
    with Checkpoints(workdir, Retention(_KEPT)) as checkpoints:
        search = Search(tuning, grid, stages, checkpoints, same)
        search.run()
    judged = [score and score.top1 for score in search.scores[:-1]] or [None]
    held_out = stages[0].judge.num_images
    results = {
        "protocol": "semi_orl",
        "labels": config.labels,
        "images_used": subset.num_images,
        **search.scores[-1]._asdict(),
        "pretrained": encoder.source,
        "step": encoder.step,
        "image_size": recipe.image_size,
        "epochs": recipe.num_epochs,
        "batch_size": recipe.batch_size,
        **({"drawn_from": whole.describe()} if config.data.subset == "drawn" else {}),
        "train": subset.describe(),
        "test": test.describe(),
        "classes": len(subset.classes),
        "grid": [{**point._asdict(), "held_out": top1} for point, top1 in zip(grid, judged, strict=True)],
        "chosen": search.chosen()._asdict(),
        "chosen_by": f"top-1 on {held_out} photos held out of train, then trained on all of it; null: the loss diverged"
        if len(grid) > 1
        else "the only point",
        "seed": recipe.seed,
    }
    if primary:
        write_results(workdir, results)
