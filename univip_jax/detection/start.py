"""Where a detector starts: a pre-trained backbone, a whole detector, or nothing."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.common.files import at, sha256_of
from univip_jax.config import as_tuples, to_spec
from univip_jax.data.detection.canvas import InputSpec
from univip_jax.data.detection.sets import Category, DetectionSet, require_equal_categories
from univip_jax.detection.spec import DetectorSpec
from univip_jax.detection.step import Detector
from univip_jax.models.mask_rcnn import MaskRCNN
from univip_jax.models.univip import DTYPES
from univip_jax.run.folder import CONFIG, read_config
from univip_jax.weights.detector_file import DETECTOR, DetectorFile, holds_detector, read_detector
from univip_jax.weights.encoder import open_encoder


class Start(NamedTuple):
    """The network, and those of its variables that do not come from the seed."""

    net: MaskRCNN
    variables: dict[str, Any]  # `params` and `batch_stats`: of the backbone alone, or of all
    source: dict[str, Any]  # path, step and digest of the weights, and how many arrays were taken; for the results

    @property
    def described(self) -> str:
        """The weights in words."""
        return self.source["path"] + (f" (step {self.source['step']})" if self.source["step"] else "")


def open_start(config: ConfigDict, categories: tuple[Category, ...], spec: DetectorSpec) -> Start:
    """The detector at step 0.

    Raises UserError: `pretrained` is none of ours, has another stem, or is a detector of other classes or parts.
    """
    if not config.pretrained:
        raise UserError(
            "pretrained is not set: --config.pretrained=RUN_DIR (or a file of weights) starts from these, "
            "--config.pretrained=random from nothing"
        )
    dtype = _dtype(config.dtype)
    if path := find_detector(config.pretrained):
        _refuse_step(config, path)
        file = read_detector(path)
        net = make_net(file.net.backbone.clone(dtype=dtype), len(categories), spec, dtype)
        _check_equal(file, net, categories, path)
        return Start(net, file.variables, _source(path, file))
    encoder = open_encoder(config)
    backbone = encoder.backbone
    if backbone.stem != "imagenet":
        raise UserError(
            f"{encoder.source} has a {backbone.stem} stem, and the pyramid needs one of stride 4: train a backbone "
            "with --config.model.stem=imagenet"
        )
    _check_statistics(encoder.variables["batch_stats"], encoder.source)
    net = make_net(backbone.clone(dtype=dtype), len(categories), spec, dtype)
    variables = {kind: {"backbone": tree} for kind, tree in encoder.variables.items()}
    source = {"path": encoder.source, "step": encoder.step, "sha256": encoder.sha256()}
    return Start(net, variables, source | {"arrays": len(jax.tree.leaves(variables))})


def open_detector(config: ConfigDict, test: DetectionSet) -> tuple[Detector, dict[str, Any], InputSpec, dict[str, Any]]:
    """The detector `pretrained` with its variables, its input and its source, to be judged as it is.

    A file of another project says neither how it was trained nor, perhaps, its categories: then the config's `detector`
    and `input` hold, and the test set's categories.

    Raises UserError: `pretrained` is no detector, or one of other categories.
    """
    path = find_detector(config.pretrained)
    if path is None:
        raise UserError(
            f"pretrained={config.pretrained!r} is no detector: name the --workdir of a trained one or its file, or "
            "train one with schedule=1x"
        )
    _refuse_step(config, path)
    file = read_detector(path)
    if "categories" in file.facts:
        require_equal_categories(tuple(Category(**row) for row in file.facts["categories"]), test)
    elif file.net.num_classes != len(test.categories):
        raise UserError(
            f"{path} has {file.net.num_classes} classes and does not name them, {test.dataset.root} has "
            f"{len(test.categories)}: give the set that it was trained for"
        )
    defaults = to_spec(DetectorSpec, config, "detector"), to_spec(InputSpec, config, "input")
    detector, given = detector_of(file, *defaults, config.dtype)
    return detector, file.variables, given, _source(path, file)


def detector_of(file: DetectorFile, spec: DetectorSpec, given: InputSpec, dtype: str) -> tuple[Detector, InputSpec]:
    """The detector of a file, and its input; `spec` and `given` hold where a file does not say how it was trained."""
    spec = _section(DetectorSpec, file.facts.get("detector")) or spec
    spec = dataclasses.replace(
        spec, masks=file.net.masks, box_head=file.net.box_head, norm=file.net.norm, channels=file.net.channels,
        head_width=file.net.head_width,
    )  # fmt: skip
    kind = _dtype(dtype)
    net = make_net(file.net.backbone.clone(dtype=kind), file.net.num_classes, spec, kind)
    return Detector(net, spec), _section(InputSpec, file.facts.get("input")) or given


def find_detector(pretrained: str) -> Path | None:
    """The file of a whole detector: that of a run of `configs/detection.py`, or `pretrained` itself; None: neither.

    Raises UserError: the run has not ended.
    """
    path = at(pretrained)
    if pretrained and path.is_dir():
        if (path / DETECTOR).is_file():
            return path / DETECTOR
        if (path / CONFIG).is_file() and read_config(path).get("task") == "detection":
            raise UserError(
                f"{path} is a detector's run without a {DETECTOR}, which is written at its end: run its own command "
                "again, to the end"
            )
        return None
    return path if path.is_file() and holds_detector(path) else None


def _dtype(name: str) -> Any:
    if name not in DTYPES:
        raise UserError(f"dtype={name!r} is unknown; choose one of {', '.join(DTYPES)}")
    return jnp.dtype(name)


def _refuse_step(config: ConfigDict, path: Path) -> None:
    """Raises UserError where a step is asked for, which would not be used."""
    if config.step:
        raise UserError(f"{path} is a whole detector, of one step, but step={config.step}: leave out --config.step")


def _section(kind: Any, values: dict[str, Any] | None) -> Any:
    """A spec from a file of ours, which may be older than a field, or younger."""
    if values is None:
        return None
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: as_tuples(value) for name, value in values.items() if name in names})


def _source(path: Path, file: DetectorFile) -> dict[str, Any]:
    arrays = len(jax.tree.leaves(file.variables))
    return {"path": str(path), "step": file.facts.get("step", 0), "sha256": sha256_of(path), "arrays": arrays}


def _check_equal(file: DetectorFile, net: MaskRCNN, categories: tuple[Category, ...], path: Path) -> None:
    """Raises UserError where a detector to start from is not the one that the config and the data ask for."""
    for name in ("num_classes", "channels", "head_width", "box_head", "norm", "masks"):
        there, wanted = getattr(file.net, name), getattr(net, name)
        if there != wanted:
            way = "give data of its classes" if name == "num_classes" else f"--config.detector.{name}={there}"
            raise UserError(f"{path} is a detector with {name}={there}, asked for is {wanted}: {way}")
    given = file.facts.get("categories")
    if given is not None and [tuple(row.values()) for row in given] != [tuple(category) for category in categories]:
        raise UserError(f"{path} is a detector of other categories than data.train: start from its backbone's run")


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
