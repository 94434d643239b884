"""k-NN on frozen features (`knn`; Wu et al. 2018): cosine similarity, votes weighted by exp(s / T)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import Labelled, open_pair
from univip_jax.evaluate.kept import CENTRE, kept_features
from univip_jax.evaluate.neighbours import top1_of_each
from univip_jax.evaluate.results import write_results
from univip_jax.weights.encoder import open_encoder


def open_for_knn(train: str, test: str, k: Sequence[int]) -> tuple[Labelled, Labelled]:
    """`open_pair`; UserError also where one of `k` is more than there are photos to vote."""
    labelled, held_out = open_pair(train, test)
    for neighbours in k:
        if neighbours > labelled.num_images:
            raise UserError(
                f"k={neighbours} is more than the {labelled.num_images} photos of {labelled.name}; lower it: "
                "--config.k=(20,)"
            )
    return labelled, held_out


def evaluate_knn(config: ConfigDict, workdir: Path) -> None:
    """Writes `results.json`: top-1 in percent for each k; `top1` is that of the first."""
    encoder = open_encoder(config)
    size = config.image_size or encoder.image_size
    train, test = open_for_knn(config.data.train, config.data.test, config.k)
    keep = partial(kept_features, workdir, encoder, recipe=CENTRE, image_size=size, batch_size=config.batch_size)
    train_features, test_features = keep(train), keep(test)
    if jax.process_index() == 0:
        top1 = top1_of_each(train_features, test_features, config.k, config.temperature)
        results = {
            "protocol": "knn",
            "top1": top1[config.k[0]],
            **{f"top1_k{k}": value for k, value in top1.items()},
            "pretrained": encoder.source,
            "step": encoder.step,
            "image_size": size,
            "temperature": config.temperature,
            "train": train.describe(),
            "test": test.describe(),
            "classes": len(train.classes),
            "grid": [{"k": k, "held_out": None} for k in config.k],
            "chosen": {"k": config.k[0]},
            "chosen_by": "the first of config.k: nothing is chosen",
            "seed": config.seed,
        }
        write_results(workdir, results)
    multihost_utils.sync_global_devices("k-NN voted")  # the others wait: a process that ended would end the job
