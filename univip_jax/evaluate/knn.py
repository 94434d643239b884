"""k-NN on frozen features (METHOD: `knn`; Wu et al. 2018): cosine similarity, votes weighted by exp(s / T)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from univip_jax.data.labelled import Labelled, open_pair
from univip_jax.errors import UserError
from univip_jax.evaluate.features import Features, extract, open_encoder, write_results
from univip_jax.transport import normalize

_CHUNK = 256  # test photos compared at once


@partial(jax.jit, static_argnames=("k", "num_classes"))
def _vote(train, labels, test, k: int, temperature: float, num_classes: int):
    similarity = jnp.matmul(test, train.T, precision=jax.lax.Precision.HIGHEST)
    nearest, index = jax.lax.top_k(similarity, k)
    # Relative to the nearest: exp(1 / 0.07) is far from overflow, but a smaller temperature is not.
    weights = jnp.exp((nearest - nearest[:, :1]) / temperature)
    votes = jax.nn.one_hot(labels[index], num_classes) * weights[..., None]
    return votes.sum(1).argmax(-1)


def knn_predict(
    train: Float[Array, "N F"],
    labels: Int[Array, " N"],
    test: Float[Array, "M F"],
    *,
    k: int,
    temperature: float,
    num_classes: int,
) -> Int[np.ndarray, " M"]:
    """The class of each test feature by the weighted vote of its k nearest training features.

    Raises UserError where there are fewer than k training features.
    """
    if not 1 <= k <= len(train):
        raise UserError(f"k={k} neighbours cannot be had from {len(train)} training photos; lower k")
    train, test = normalize(jnp.asarray(train)), normalize(jnp.asarray(test))
    chunks = [
        _vote(train, jnp.asarray(labels), test[start : start + _CHUNK], k, temperature, num_classes)
        for start in range(0, len(test), _CHUNK)
    ]
    return np.concatenate(jax.device_get(chunks))


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


def knn_top1(train: Features, test: Features, k: int, temperature: float) -> float:
    """Percent of the test features that their neighbours' vote gives the right class."""
    classes = int(train.labels.max()) + 1
    predicted = knn_predict(*train, test.features, k=k, temperature=temperature, num_classes=classes)
    return 100 * float(np.mean(predicted == test.labels))


def effective_rank(features: Float[np.ndarray, "N F"]) -> float:
    """RankMe (Garrido et al. 2023): exp of the entropy of the singular values; a collapse shows as a few."""
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    share = values / max(values.sum(), 1e-300) + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))


def evaluate_knn(config: ConfigDict, workdir: Path) -> None:
    """Writes `results.json`: top-1 in percent for each k; `top1` is that of the first."""
    encoder = open_encoder(config)
    size = config.image_size or encoder.image_size
    train, test = open_for_knn(config.data.train, config.data.test, config.k)
    train_features = extract(encoder, train, size, config.batch_size)
    test_features = extract(encoder, test, size, config.batch_size)
    top1 = {f"top1_k{k}": knn_top1(train_features, test_features, k, config.temperature) for k in config.k}
    results = {
        "protocol": "knn",
        "top1": next(iter(top1.values())),
        **top1,
        "pretrained": encoder.source,
        "step": encoder.step,
        "image_size": size,
        "temperature": config.temperature,
        "train": train.describe(),
        "test": test.describe(),
        "classes": len(train.classes),
    }
    write_results(workdir, results)
