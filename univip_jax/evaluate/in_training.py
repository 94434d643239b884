"""Evaluation during training: k-NN, which decides which checkpoint is the best, and a linear probe."""

import sys
from dataclasses import dataclass

import jax
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.config import to_spec
from univip_jax.evaluate.features import extract
from univip_jax.evaluate.knn import open_for_knn
from univip_jax.evaluate.logistic import fit_logistic
from univip_jax.evaluate.neighbours import knn_top1
from univip_jax.evaluate.scores import accuracy
from univip_jax.evaluate.task import require_least
from univip_jax.plan import Plan
from univip_jax.run.health import backbone_variables, effective_rank
from univip_jax.run.log import TOP1
from univip_jax.types import TrainState
from univip_jax.weights.encoder import Encoder, float32_backbone

_INVERSE_L2 = 1.0  # of the probe; scikit-learn's default


@dataclass(frozen=True)
class InTrainingSpec:
    """`config.knn` of a pre-training run."""

    every_steps: int
    every_epochs: float
    train: str
    test: str
    k: int
    temperature: float
    batch_size: int
    probe: bool

    def __post_init__(self):
        require_least(0, **{"knn.every_steps": self.every_steps, "knn.every_epochs": self.every_epochs})
        require_least(1, **{"knn.k": self.k, "knn.batch_size": self.batch_size})

    def interval(self, steps_per_epoch: int) -> int:
        """Steps from one evaluation to the next; 0: there is none."""
        if self.every_steps and self.every_epochs:
            raise UserError(
                f"knn.every_steps={self.every_steps} and knn.every_epochs={self.every_epochs}: leave one of them at "
                "0: --config.knn.every_epochs=0"
            )
        return self.every_steps or (max(1, round(self.every_epochs * steps_per_epoch)) if self.every_epochs else 0)


class KnnEvaluator:
    """State to metrics, on the devices of the first process; the others know only when it is due."""

    def __init__(self, spec: InTrainingSpec, plan: Plan):
        """Opens both labelled sets; UserError where that fails."""
        self.every = spec.interval(plan.steps_per_epoch)
        if jax.process_index():
            return
        if not spec.train or not spec.test:
            raise UserError(
                f"k-NN during training needs photos, but knn.train={spec.train!r} and knn.test={spec.test!r}: "
                "name two labelled sets by --config.knn.train and --config.knn.test (class folders, or NAME:SPLIT of "
                "TFDS), or give --config.knn.every_steps=0 --config.knn.every_epochs=0"
            )
        self._spec, self._image_size = spec, plan.views.scene_size
        self._sets = open_for_knn(spec.train, spec.test, [spec.k], "--config.knn.k")
        self._encoder = Encoder(float32_backbone(plan.model), None, image_size=self._image_size, source="", step=0)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Top-1 of k-NN in percent, top-1 of the probe if asked for, effective rank of the test features."""
        # A host copy: the state may be on devices of other processes too.
        self._encoder.variables = jax.device_get(backbone_variables(state))
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


def make_evaluator(config: ConfigDict, plan: Plan) -> KnnEvaluator | None:
    """The evaluator that `config.knn` asks for; None where it asks for none."""
    spec = to_spec(InTrainingSpec, config, "knn")
    return KnnEvaluator(spec, plan) if spec.interval(plan.steps_per_epoch) else None
