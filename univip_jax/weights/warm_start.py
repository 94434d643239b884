"""Weights that a pre-training run starts from: `config.init`."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.common.files import at, sha256_of
from univip_jax.config import to_spec
from univip_jax.models.univip import Encoder as Network
from univip_jax.models.univip import ModelSpec
from univip_jax.plan import make_plan
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.run.folder import STARTED_FROM, read_config
from univip_jax.run.health import backbone_variables
from univip_jax.weights.encoder import Encoder, float32_backbone, load_encoder
from univip_jax.weights.files import read_tensors
from univip_jax.weights.imported import TASK

_HEADS = ("hidden", "projection")


class WarmStart(NamedTuple):
    """Parts of an encoder, and where they come from.

    Attributes:
      variables: `params` and `batch_stats` by part: `backbone`, and `projector` where there is one; host arrays.
      facts: `source`, `step`, `weights` (digest of the backbone, as `Encoder.sha256`), `parts`, `licence` (empty where
        nobody says), of a file `file_sha256`; into config.json.
      note: why a part is left out; empty where none is.
    """

    variables: dict[str, dict[str, Any]]
    facts: dict[str, Any]
    note: str


def open_warm_start(source: str, model: ModelSpec) -> WarmStart:
    """The backbone of a run's newest checkpoint, or of a file of weights; of a run with equal heads the projector too.

    Raises UserError as `load_encoder` does, and where the backbone is not the one of `model`.
    """
    encoder = load_encoder(source)
    _require_equal(encoder, model)
    variables = {kind: {"backbone": tree} for kind, tree in encoder.variables.items()}
    facts = {"source": encoder.source, "step": encoder.step, "weights": encoder.sha256(), "licence": ""}
    path, note = at(encoder.source), ""
    if path.is_file():
        facts |= {"file_sha256": sha256_of(path), "licence": read_tensors(path)[1].get("licence", "")}
    else:
        config = read_config(path)
        facts["licence"] = licence_of(config)
        if config.task != TASK:
            note = _different_heads(config, encoder.source, model)
            if not note:
                projector = _read_projector(path, encoder.step, model)
                variables = {kind: tree | {"projector": projector[kind]} for kind, tree in variables.items()}
    return WarmStart(variables, facts | {"parts": " and ".join(sorted(variables["params"]))}, note)


def starting_encoder(run: Path) -> Encoder:
    """The online backbone of a pre-training run before its first step: by its config and seed, or by what `init` named.

    Raises UserError where that is gone, or holds other weights now.
    """
    config = read_config(run)
    if warm := config.get(STARTED_FROM, ConfigDict()).to_dict():
        try:
            encoder = load_encoder(warm["source"], None if "file_sha256" in warm else warm["step"])
        except UserError as error:
            raise UserError(f"{run} began from weights that are gone: {error}") from error
        if encoder.sha256() != warm["weights"]:
            raise UserError(
                f"{run} began from other weights than {warm['source']} holds now: put the earlier ones back"
            )
        return encoder
    # The number of photos shapes schedules alone; a run of part of an epoch must keep a step.
    plan = make_plan(config, config.batch_size * (1 if config.num_steps else 1000))
    variables = jax.jit(lambda: backbone_variables(plan.init_state()))()
    return Encoder(float32_backbone(plan.model), variables, image_size=plan.views.scene_size, source=str(run), step=0)


def licence_of(config: ConfigDict) -> str:
    """Of the weights that a run began from, as they say themselves; empty where it is unknown."""
    if config.task == TASK:
        return config.imported.metadata.get("licence", "")
    return config.get(STARTED_FROM, {}).get("licence", "")


def _require_equal(encoder: Encoder, model: ModelSpec) -> None:
    net = encoder.backbone
    found = {"backbone": net.variant, "width": net.width, "stem": net.stem}
    if differing := {name: value for name, value in found.items() if value != getattr(model, name)}:
        what = ", ".join(f"{name} {value} (model.{name}={getattr(model, name)})" for name, value in differing.items())
        flags = " ".join(f"--config.model.{name}={value}" for name, value in differing.items())
        raise UserError(f"init={encoder.source} has another network, of {what}: give {flags}")


def _different_heads(config: ConfigDict, source: str, model: ModelSpec) -> str:
    differing = [name for name in _HEADS if config.model[name] != getattr(model, name)]
    if not differing:
        return ""
    what = ", ".join(f"model.{name} is {getattr(model, name)}, there {config.model[name]}" for name in differing)
    return f"the projector begins anew: {what} in {source}"


def _read_projector(run: Path, step: int, model: ModelSpec) -> dict[str, Any]:
    network = Network(to_spec(ModelSpec, read_config(run), "model"))
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), image)
    like = {kind: {"encoder": {"projector": tree["projector"]}} for kind, tree in shapes.items()}
    with Checkpoints(run) as checkpoints:
        part = checkpoints.restore_part(step, like)
    return {kind: tree["encoder"]["projector"] for kind, tree in part.items()}
