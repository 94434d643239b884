"""k-NN on frozen features (METHOD: `knn`; Wu et al. 2018): cosine similarity, votes weighted by exp(s / T)."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from univip_jax.data.labelled import open_labelled
from univip_jax.errors import UserError
from univip_jax.evaluate.features import extract, open_encoder, write_results
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


def evaluate_knn(config: ConfigDict, workdir: Path) -> None:
    """Writes `results.json`: top-1 in percent for each k; `top1` is that of the first."""
    encoder = open_encoder(config)
    size = config.image_size or encoder.image_size
    train, test = open_labelled(config.data.train), open_labelled(config.data.test)
    if train.classes != test.classes:
        raise UserError(f"{train.name} and {test.name} have different classes: {train.classes[:5]}, {test.classes[:5]}")
    for k in config.k:
        if k > train.num_images:
            raise UserError(
                f"k={k} is more than the {train.num_images} photos of {train.name}; lower it: --config.k=(20,)"
            )
    train_features = extract(encoder, train, size, config.batch_size)
    test_features = extract(encoder, test, size, config.batch_size)
    top1 = {}
    for k in config.k:
        predicted = knn_predict(
            *train_features,
            test_features.features,
            k=k,
            temperature=config.temperature,
            num_classes=len(train.classes),
        )
        top1[f"top1_k{k}"] = 100 * float(np.mean(predicted == test_features.labels))
    results = {
        "protocol": "knn",
        "top1": next(iter(top1.values())),
        **top1,
        "pretrained": encoder.source,
        "step": encoder.step,
        "image_size": size,
        "temperature": config.temperature,
        "train": {"name": train.name, "images": train.num_images},
        "test": {"name": test.name, "images": test.num_images},
        "classes": len(train.classes),
    }
    write_results(workdir, results)
