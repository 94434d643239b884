"""UniVIP (CVPR 2022): visual features from unlabelled photos of whole scenes, in JAX."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from univip_jax.weights.encoder import Encoder


def load_encoder(run_or_file: str | Path) -> "Encoder":
    """The pre-trained backbone of a run's folder or of a weights file: uint8 [N, H, W, 3] to float32 [N, F].

    Raises UserError where the folder is no run or has no checkpoint, or the file holds no plain ResNet.
    """
    from univip_jax.weights import encoder  # late: data preparation needs neither JAX nor Orbax

    return encoder.load_encoder(run_or_file)
