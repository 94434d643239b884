"""UniVIP (CVPR 2022): visual features from unlabelled photos of whole scenes, in JAX."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from univip_jax.weights.encoder import Encoder


def load_encoder(run_or_file: str | Path) -> "Encoder":
    """The pre-trained backbone of a run's folder, or of a file of weights: uint8 [N, H, W, 3] to float32 [N, F].

    Raises UserError where the folder is no run or holds no checkpoint, or the file no ResNet of ours.
    """
    from univip_jax.weights import encoder as features  # late: data preparation needs neither JAX nor Orbax

    return features.load_encoder(run_or_file)
