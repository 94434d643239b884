"""Frozen features: the backbone of a run, of a weights file, or untrained, as a function of uint8 images.

Imports neither TensorFlow nor anything that changes the process: `univip_jax.load_encoder` runs in notebooks.
"""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from univip_jax.augment import normalize_pixels
from univip_jax.common.errors import UserError
from univip_jax.common.files import at, expand
from univip_jax.config import to_spec
from univip_jax.models.resnet import ResNet, stage_maps
from univip_jax.models.univip import ModelSpec, make_backbone
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.run.folder import STARTED_FROM, read_config
from univip_jax.sharding import of_first_process
from univip_jax.weights.files import image_size_of, number_of, read_backbone
from univip_jax.weights.names import shapes_of

RANDOM = "random"


class Encoder:
    """Callable: uint8 images [N, H, W, 3] to float32 features [N, F]; batch norm uses its running statistics.

    Attributes:
      backbone: the network;  variables: its `params` and `batch_stats`.
      image_size: side of the scenes it was trained on, px; 224, or 32 for CIFAR, where a file does not say.
      source: the run's folder, the weights file, or `random`;  step: of the checkpoint, 0 where unknown.
      started_from: what `config.init` of the run named, as its config.json has it; empty where nothing was.
    """

    def __init__(
        self,
        backbone: ResNet,
        variables: Any,
        *,
        image_size: int,
        source: str,
        step: int,
        started_from: dict[str, Any] | None = None,
    ):
        self.backbone, self.variables, self.started_from = backbone, variables, started_from or {}
        self.image_size, self.source, self.step = image_size, source, step
        self._jitted = jax.jit(self.apply)

    def apply(self, variables: Any, images: UInt8[Array, "N H W 3"]) -> Float[Array, "N F"]:
        """The pure function behind the call, for use inside another jitted function."""
        return self.backbone.apply(variables, normalize_pixels(images), train=False)

    def __call__(self, images: UInt8[Array, "N H W 3"]) -> Float[Array, "N F"]:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(f"images must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
        return self._jitted(self.variables, images)

    def stages(self, variables: Any, images: UInt8[Array, "N H W 3"]) -> list[Float[Array, "N h w c"]]:
        """The maps after the four stages (res2 to res5), as a pure function; the last map's mean is the features."""
        return stage_maps(self.backbone, variables, normalize_pixels(images))

    def sha256(self) -> str:
        """Digest (hex) of the names, shapes and bits of the variables."""
        weights = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            weights.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode() + np.asarray(leaf).tobytes())
        return weights.hexdigest()


def float32_backbone(spec: ModelSpec) -> ResNet:
    """The network of a run, which computes in float32 whatever dtype it trains in."""
    return make_backbone(replace(spec, dtype="float32"))


def load_encoder(run: str | Path, step: int | None = None) -> Encoder:
    """The online backbone of a run after `step` steps (default: its newest checkpoint), or of a weights file.

    Raises UserError where `run` is no run, has no such checkpoint, or is a file without a plain ResNet.
    """
    run = expand(str(run))
    if at(run).is_file():
        if step is not None:
            raise UserError(f"{run} is a weights file, and a file has no steps, such as step={step}: leave it out")
        backbone, variables, metadata, note = read_backbone(at(run))
        if note:
            print(f"{run}: {note}", file=sys.stderr)
        size, step = image_size_of(metadata, backbone), number_of(metadata, "step", 0, 10**15)
        return Encoder(backbone, variables, image_size=size, source=str(run), step=step)
    config = read_config(at(run))
    if "model" not in config or "views" not in config:
        kind = "a detector" if config.get("task") == "detection" else "an evaluation"
        raise UserError(f"{run} is the folder of {kind}, not of a pre-training run; name the --workdir of one")
    backbone = float32_backbone(to_spec(ModelSpec, config, "model"))
    with Checkpoints(at(run)) as checkpoints:
        steps = of_first_process(checkpoints.steps())  # a running training may save one meanwhile
        if not steps or (step is not None and step not in steps):
            raise UserError(f"{run} has no checkpoint{'' if step is None else f' of step {step}'}; it has {steps}")
        step = steps[-1] if step is None else step
        like = {kind: {"encoder": {"backbone": tree}} for kind, tree in shapes_of(backbone).items()}
        part = checkpoints.restore_part(step, like)
    variables = {kind: part[kind]["encoder"]["backbone"] for kind in like}
    warm = config.get(STARTED_FROM, ConfigDict()).to_dict()
    size = config.views.scene_size
    return Encoder(backbone, variables, image_size=size, source=str(run), step=step, started_from=warm)


def open_encoder(config: ConfigDict) -> Encoder:
    """The encoder of `config.pretrained`: a run after `config.step` steps, a file, or `random`, untrained.

    Raises UserError as `load_encoder` does, and where `random` is given a step.
    """
    if config.pretrained != RANDOM:
        return load_encoder(config.pretrained, config.step or None)
    if config.step:
        raise UserError(f"pretrained={RANDOM} has no checkpoints, but step={config.step}: give --config.step=0")
    backbone = float32_backbone(to_spec(ModelSpec, config, "model"))
    start = jax.jit(lambda key: backbone.init(key, jnp.zeros((1, 32, 32, 3)), train=False))
    variables = start(jax.random.key(config.seed))
    return Encoder(backbone, variables, image_size=config.get("image_size") or 224, source=RANDOM, step=0)
