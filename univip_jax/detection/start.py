"""Where a detector starts: a pre-trained backbone, a whole detector, or nothing."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.data.detection.sets import Category
from univip_jax.detection.spec import DetectorSpec
from univip_jax.models.mask_rcnn import MaskRCNN
from univip_jax.weights.encoder import open_encoder


class Start(NamedTuple):
    """The network, and those of its variables that do not come from the seed."""

    net: MaskRCNN
    variables: dict[str, Any]  # `params` and `batch_stats`: of the backbone alone, or of all
    source: dict[str, Any]  # path, step and digest of the weights, for the results

    @property
    def described(self) -> str:
        """The weights in words."""
        return self.source["path"] + (f" (step {self.source['step']})" if self.source["step"] else "")


def open_start(config: ConfigDict, categories: tuple[Category, ...], spec: DetectorSpec) -> Start:
    """The detector at step 0.

    Raises UserError: `pretrained` is none of ours, has another stem, or was never trained.
    """
    if not config.pretrained:
        raise UserError(
            "pretrained is not set: --config.pretrained=RUN_DIR (or a file of weights) starts from these, "
            "--config.pretrained=random from nothing"
        )
    encoder = open_encoder(config)
    backbone = encoder.backbone
    if backbone.stem != "imagenet":
        raise UserError(
            f"{encoder.source} has a {backbone.stem} stem, and the pyramid needs one of stride 4: train a backbone "
            "with --config.model.stem=imagenet"
        )
    _check_statistics(encoder.variables["batch_stats"], encoder.source)
    dtype = jnp.dtype(config.dtype)
    net = make_net(backbone.clone(dtype=dtype), len(categories), spec, dtype)
    variables = {kind: {"backbone": tree} for kind, tree in encoder.variables.items()}
    source = {"path": encoder.source, "step": encoder.step, "sha256": encoder.sha256()}
    return Start(net, variables, source)


def make_net(backbone: Any, num_classes: int, spec: DetectorSpec, dtype: Any) -> MaskRCNN:
    """The network that a spec describes."""
    return MaskRCNN(backbone, num_classes, spec.channels, spec.head_width, spec.box_head, spec.norm, spec.masks, dtype)


def _check_statistics(stats: Any, source: str) -> None:
    """Raises UserError where a norm's running variances are not positive: its weights were folded into others."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(stats):
        if path[-1].key == "var" and not (np.asarray(leaf) > 0).all():
            raise UserError(
                f"{source}: {jax.tree_util.keystr(path, simple=True, separator='/')} has variances that are not "
                "positive, so batch norm cannot use them: give weights whose norms were not folded away"
            )
