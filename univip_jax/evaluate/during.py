"""k-NN while a run goes on: how good its features are by now, and which checkpoint is the best."""

from dataclasses import dataclass

import jax

from univip_jax.errors import UserError
from univip_jax.evaluate.features import Encoder, extract, float32_backbone
from univip_jax.evaluate.knn import effective_rank, knn_top1, open_for_knn
from univip_jax.models.univip import ModelSpec
from univip_jax.types import TrainState

TOP1 = "knn/top1"  # the metric by which the best checkpoint is told


@dataclass(frozen=True)
class KnnSpec:
    """`config.knn` of a pre-training run."""

    every_steps: int
    train: str
    test: str
    k: int
    temperature: float
    batch_size: int


class KnnDuringTraining:
    """Callable: a state to its metrics, on the devices of this process."""

    def __init__(self, spec: KnnSpec, model: ModelSpec, image_size: int):
        """Opens both labelled sets; UserError where that fails."""
        if not spec.train or not spec.test:
            raise UserError(
                f"knn.every_steps={spec.every_steps}, but knn.train={spec.train!r} and knn.test={spec.test!r}: "
                "name two labelled sets (class folders, or NAME:SPLIT of TFDS), or set it to 0"
            )
        self._spec, self._image_size = spec, image_size
        self._sets = open_for_knn(spec.train, spec.test, [spec.k])
        self._encoder = Encoder(float32_backbone(model), None, image_size=image_size, source="", step=0)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Top-1 in percent, and the effective rank of the test features."""
        # A host copy: the state may be on devices of other processes too.
        backbone = {
            "params": state.params["encoder"]["backbone"],
            "batch_stats": state.batch_stats["encoder"]["backbone"],
        }
        self._encoder.variables = jax.device_get(backbone)
        spec = self._spec
        train, test = (extract(self._encoder, labelled, self._image_size, spec.batch_size) for labelled in self._sets)
        return {
            TOP1: knn_top1(train, test, spec.k, spec.temperature),
            "knn/effective_rank": effective_rank(test.features),
        }
