"""UniVIP (CVPR 2022): visual features from unlabelled photos of whole scenes, in JAX."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from univip_jax.weights.encoder import Encoder


def load_encoder(run_or_file: str | Path) -> "Encoder":
    """The pre-trained backbone of a run's folder or of a weights file: uint8 [N, H, W, 3] to float32 [N, F].

    Raises UserError where the folder is no run or has no checkpoint, or the file holds no plain ResNet.
    """
    from univip_jax.weights import encoder  # late: data preparation needs neither JAX nor Orbax

    return encoder.load_encoder(run_or_file)


def pretrain(images: str | Path | Sequence[str | Path], out: str | Path, **options: Any) -> Path | None:
    """From a folder of photos to trained weights and a page: `python -m univip_jax.pretrain` in Python.

    Options, result and errors: see `univip_jax.own.pretrain.pretrain`.
    """
    from univip_jax.own import pretrain  # late: it needs TensorFlow

    return pretrain.pretrain(images, out, **options)
