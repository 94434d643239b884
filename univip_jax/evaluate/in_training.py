"""While a run goes on: k-NN, by which the best checkpoint is told; and, without labels, how spread its features are."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from univip_jax.augment import normalize_pixels
from univip_jax.common.errors import UserError
from univip_jax.evaluate.features import extract
from univip_jax.evaluate.knn import open_for_knn
from univip_jax.evaluate.logistic import accuracy, fit_logistic
from univip_jax.evaluate.neighbours import effective_rank, knn_top1
from univip_jax.models.univip import ModelSpec
from univip_jax.sharding import by_batch, replicated
from univip_jax.train_step import feature_std
from univip_jax.types import Batch, TrainState
from univip_jax.weights.encoder import Encoder, float32_backbone

TOP1 = "knn/top1"  # the metric by which the best checkpoint is told
_INVERSE_L2 = 1.0  # of the probe; scikit-learn's default
_SPREAD_OVER = 1024  # photos: the singular values of more would take longer than many steps


@dataclass(frozen=True)
class KnnSpec:
    """`config.knn` of a pre-training run."""

    every_steps: int
    every_epochs: float
    train: str
    test: str
    k: int
    temperature: float
    batch_size: int
    probe: bool

    def interval(self, steps_per_epoch: int) -> int:
        """Steps from one evaluation to the next; 0: there is none."""
        if self.every_steps and self.every_epochs:
            raise UserError(
                f"knn.every_steps={self.every_steps} and knn.every_epochs={self.every_epochs}: leave one of them at 0"
            )
        return self.every_steps or (max(1, round(self.every_epochs * steps_per_epoch)) if self.every_epochs else 0)


class KnnDuringTraining:
    """Callable: a state to its metrics, on the devices of this process."""

    def __init__(self, spec: KnnSpec, model: ModelSpec, image_size: int):
        """Opens both labelled sets; UserError where that fails."""
        if not spec.train or not spec.test:
            raise UserError(
                f"k-NN while the run goes on needs photos, but knn.train={spec.train!r} and knn.test={spec.test!r}: "
                "name two labelled sets (class folders, or NAME:SPLIT of TFDS), or set knn.every_steps and "
                "knn.every_epochs to 0"
            )
        self._spec, self._image_size = spec, image_size
        self._sets = open_for_knn(spec.train, spec.test, [spec.k])
        self._encoder = Encoder(float32_backbone(model), None, image_size=image_size, source="", step=0)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Top-1 in percent, that of the probe where it is asked for, and the effective rank of the test features."""
        # A host copy: the state may be on devices of other processes too.
        self._encoder.variables = jax.device_get(_backbone(state))
        spec = self._spec
        train, test = (extract(self._encoder, labelled, self._image_size, spec.batch_size) for labelled in self._sets)
        metrics = {
            TOP1: knn_top1(train, test, spec.k, spec.temperature),
            "knn/effective_rank": effective_rank(test.features),
        }
        if spec.probe:
            try:
                metrics["probe/top1"] = accuracy(fit_logistic(train, test.features, _INVERSE_L2), test.labels, 1)
            except UserError as error:  # one that does not converge is no reason to end a run
                print(f"no probe of this step: {error}", file=sys.stderr)
        return metrics


def make_spread(model: ModelSpec, mesh: Mesh) -> Callable[[TrainState, Batch], dict[str, float]]:
    """(state, batch) to how spread the features of the batch's first scenes are, in float32 by running statistics.

    No label is needed. `features/effective_rank` is RankMe, of the 1,024 first photos at most; 1 is collapse.
    `features/std` is `feature_std`; 0 is collapse. All processes must call it.
    """
    backbone, photos = float32_backbone(model), max(1, _SPREAD_OVER // mesh.size) * mesh.size

    def features(variables, scenes):
        # The first photos lie on the first devices; all shall share the work.
        scenes = jax.lax.with_sharding_constraint(scenes[:photos, 0], by_batch(mesh))
        return backbone.apply(variables, normalize_pixels(scenes), train=False)

    jitted = jax.jit(features, out_shardings=replicated(mesh))

    def spread(state: TrainState, batch: Batch) -> dict[str, float]:
        found = jitted(_backbone(state), batch.scenes)
        return {
            "features/effective_rank": effective_rank(np.asarray(found)),
            "features/std": float(feature_std(found)),
        }

    return spread


def _backbone(state: TrainState) -> dict:
    return {
        "params": state.params["encoder"]["backbone"],
        "batch_stats": state.batch_stats["encoder"]["backbone"],
    }
