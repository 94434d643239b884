"""Linear probes on frozen features.

`linear_moco` (METHOD): one linear layer, trained by SGD on random crops. `logistic`: scikit-learn's logistic regression
on the features of centre crops, computed once, and no rate to choose (the probe of CLIP; not of the paper).
"""

import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from univip_jax.data.labelled import open_pair, training_batches
from univip_jax.errors import UserError
from univip_jax.evaluate.features import Encoder, Features, extract, open_encoder, write_results
from univip_jax.metrics import duration
from univip_jax.sharding import make_mesh, put_batch, replicated

PROTOCOLS = ("linear_moco", "logistic")
_MAX_ITER = 2000  # of the logistic regression


def make_schedule(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """`lr` for a batch of 256, times 0.1 at each of `milestones` (epochs)."""
    peak = config.lr * config.batch_size / 256
    drops = {round(epoch * steps_per_epoch): 0.1 for epoch in config.milestones}
    return optax.piecewise_constant_schedule(peak, drops)


def make_probe_step(encoder: Encoder, optimizer: optax.GradientTransformation):
    """(weights, optimizer's state, the backbone's variables, images, labels) to the first two and the loss."""

    def step(weights, opt_state, variables, images, labels):
        features = encoder.apply(variables, images)

        def loss_fn(weights):
            logits = features @ weights["kernel"] + weights["bias"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, grads = jax.value_and_grad(loss_fn)(weights)
        updates, opt_state = optimizer.update(grads, opt_state, weights)
        return optax.apply_updates(weights, updates), opt_state, loss

    return jax.jit(step, donate_argnums=(0, 1))


def accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Percent of rows [N, C] whose label [N] is among the k largest."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return 100 * float(np.mean((best == labels[:, None]).any(1)))


def train_probe(config: ConfigDict, encoder: Encoder, train, image_size: int) -> dict:
    """The weights of the linear layer, {'kernel': [F, C], 'bias': [C]}, after `num_epochs` epochs."""
    steps_per_epoch = train.num_images // config.batch_size
    if not steps_per_epoch:
        raise UserError(f"batch_size={config.batch_size} is more than the {train.num_images} photos of {train.name}")
    mesh = make_mesh(jax.local_devices())
    if config.batch_size % mesh.size:
        raise UserError(f"batch_size={config.batch_size} is not divisible by the {mesh.size} devices")
    schedule = make_schedule(config, steps_per_epoch)
    optimizer = optax.chain(
        optax.add_decayed_weights(config.weight_decay), optax.sgd(schedule, momentum=config.momentum)
    )
    features = jax.eval_shape(encoder, jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.uint8)).shape[1]
    key = jax.random.key(config.seed)
    weights = {
        "kernel": 0.01 * jax.random.normal(key, (features, len(train.classes))),
        "bias": jnp.zeros(len(train.classes)),
    }
    weights, variables = jax.device_put((weights, encoder.variables), replicated(mesh))
    opt_state = jax.device_put(optimizer.init(weights), replicated(mesh))
    step_fn = make_probe_step(encoder, optimizer)
    batches = training_batches(train, image_size, config.batch_size, seed=config.seed, num_epochs=config.num_epochs)
    begin, losses = time.perf_counter(), []
    for step, batch in enumerate(batches, start=1):
        images, labels = put_batch(mesh, tuple(batch))
        weights, opt_state, loss = step_fn(weights, opt_state, variables, images, labels)
        losses.append(loss)
        if step % steps_per_epoch == 0:
            mean = float(np.mean(jax.device_get(losses)))
            losses = []
            epoch = step // steps_per_epoch
            left = (time.perf_counter() - begin) / epoch * (config.num_epochs - epoch)
            print(f"epoch {epoch}/{config.num_epochs}  loss {mean:.3f}  {duration(left)} left", flush=True)
            if not np.isfinite(mean):
                raise UserError(f"the probe's loss is not finite in epoch {epoch}; lower lr={config.lr}")
    return jax.device_get(weights)


def fit_logistic(train: Features, test: np.ndarray, config: ConfigDict) -> np.ndarray:
    """Log-probabilities [M, C] of test features [M, F], standardised by the training set's mean and deviation."""
    scaled = StandardScaler().fit(train.features)
    probe = LogisticRegression(C=config.inverse_l2, max_iter=_MAX_ITER)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            probe.fit(scaled.transform(train.features), train.labels)
        except ConvergenceWarning:
            raise UserError(
                f"the logistic regression did not end in {_MAX_ITER} iterations; lower {config.inverse_l2=}"
            ) from None
    # Of two classes, decision_function gives the second's logit alone.
    return probe.predict_log_proba(scaled.transform(test))


def evaluate_linear(config: ConfigDict, workdir: Path) -> None:
    """Trains the probe on `data.train`; writes `results.json` with top-1 and top-5 on `data.test`."""
    if config.protocol not in PROTOCOLS:
        raise UserError(f"protocol={config.protocol!r} is unknown; choose one of {', '.join(PROTOCOLS)}")
    encoder = open_encoder(config)
    size = config.image_size or encoder.image_size
    train, test = open_pair(config.data.train, config.data.test)
    features, labels = extract(encoder, test, size, config.batch_size)
    if config.protocol == "logistic":
        logits = fit_logistic(extract(encoder, train, size, config.batch_size), features, config)
    else:
        weights = train_probe(config, encoder, train, size)
        logits = features @ weights["kernel"] + weights["bias"]
    results = {
        "protocol": config.protocol,
        "top1": accuracy(logits, labels, 1),
        "top5": accuracy(logits, labels, 5),
        "pretrained": encoder.source,
        "step": encoder.step,
        "image_size": size,
        **({} if config.protocol == "logistic" else {"epochs": config.num_epochs, "seed": config.seed}),
        "train": train.describe(),
        "test": test.describe(),
        "classes": len(train.classes),
    }
    write_results(workdir, results)
