"""k-NN on frozen features (`knn`; Wu et al. 2018): cosine similarity, votes weighted by exp(s / T)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import Labelled, open_pair
from univip_jax.evaluate.features import CENTRE, cached_features
from univip_jax.evaluate.neighbours import top1_of_each
from univip_jax.evaluate.task import Task, require_least, run, spec_of


@dataclass(frozen=True)
class KnnSpec:
    """The fields of configs/knn.py."""

    k: tuple[int, ...]
    temperature: float

    def __post_init__(self):
        require_least(1, k=self.k)


def open_for_knn(train: str, test: str, k: Sequence[int], flag: str = "--config.k") -> tuple[Labelled, Labelled]:
    """`open_pair`; UserError, which names the flag, also where one of `k` is more than there are photos to vote."""
    labelled, held_out = open_pair(train, test)
    for neighbours in k:
        if neighbours > labelled.num_images:
            raise UserError(
                f"k={neighbours} is more than the {labelled.num_images} photos of {labelled.name}; lower it: "
                f"{flag}={min(20, labelled.num_images)}"
            )
    return labelled, held_out


def judge(task: Task, spec: KnnSpec) -> dict | None:
    """Top-1 in percent for each k; `top1` is of the first."""
    train, test = (cached_features(task, labelled, CENTRE) for labelled in (task.train, task.test))
    if train is None:
        return None
    top1 = top1_of_each(train, test, spec.k, spec.temperature)
    return {
        "protocol": "knn",
        "top1": top1[spec.k[0]],
        **{f"top1_k{k}": value for k, value in top1.items()},
        "temperature": spec.temperature,
        "grid": [{"k": k, "held_out": None} for k in spec.k],
        "chosen": {"k": spec.k[0]},
        "chosen_by": "the first of config.k: nothing is chosen",
    }


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Judges the encoder by k-NN and writes `results.json`."""
    spec = spec_of(KnnSpec, config)
    sets = partial(open_for_knn, config.data.train, config.data.test, spec.k)
    run(config, workdir, sets, partial(judge, spec=spec))
