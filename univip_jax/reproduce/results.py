"""Results of evaluations, the runs that they are of, and the rows of the paper's tables that they belong to."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from univip_jax.common.errors import UserError
from univip_jax.config import CONFIG, FREE_FIELDS, flatten, read_config
from univip_jax.reproduce.rows import PHOTOS, Row

_RESULTS = "results.json"
_MANIFEST = "manifest.json"
RANDOM = "random"
# Of a run's config: where and how it ran, and which draw it is. The data are told by their photos.
_NO_DIFFERENCE = {*FREE_FIELDS, "seed", "task", "data.train"}
_TERMS = ("loss.scene", "loss.scene_instance", "loss.instance")
_NEEDED = {*_TERMS, "views.overlap", "views.proposals", "views.num_instances", "data.train", "optimizer.name"}
_NEEDED |= {"num_epochs", "num_steps", "batch_size"}


@dataclass(frozen=True)
class Result:
    """A `results.json`, and the settings of the pre-training it is of."""

    path: Path
    values: dict[str, Any]  # what is in the file
    settings: dict[str, Any] | None  # flat; empty for an untrained network, None for no pre-training that is here


def read_results(root: Path) -> list[Result]:
    """All results below `root`, equal ones once; names on stderr each file that is none of ours."""
    found = {}
    for path in sorted(root.rglob(_RESULTS)):
        try:
            values = json.loads(path.read_text())
            if "runs" in values and "steps" in values:
                continue  # of a sweep, whose evaluations lie below it
            # What the tables need must be there.
            _ = str(values["protocol"]), Path(values["pretrained"]), int(values["step"]), float(score(values))
            _ = [int(values[part]["images"]) for part in ("train", "test")]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"{path} is skipped, as it is no result of ours ({type(error).__name__}: {error})", file=sys.stderr)
            continue
        found[json.dumps(values, sort_keys=True)] = Result(path, values, _settings_of(values["pretrained"], root))
    return list(found.values())


def score(values: dict[str, Any]) -> float:
    """The figure by which a result is known: top-1 or mAP, percent."""
    return values["map"] if "map" in values else values["top1"]


def find_pretrainings(root: Path) -> dict[Path, dict[str, Any]]:
    """The settings of the pre-trainings below `root`, by their folders."""
    folders = sorted(path.parent for path in root.rglob(CONFIG))
    return {folder: settings for folder in folders if (settings := _read_settings(folder))}


def _settings_of(pretrained: str, root: Path) -> dict[str, Any] | None:
    """Of the run at this path, or, as that may be of another machine, of one below `root` whose path ends like it."""
    if pretrained == RANDOM:
        return {}
    parts = Path(pretrained).parts
    folders = (Path(pretrained), *(root.joinpath(*parts[start:]) for start in range(len(parts))))
    return next((_read_settings(folder) for folder in folders if (folder / CONFIG).is_file()), None)


def _read_settings(folder: Path) -> dict[str, Any] | None:
    """The flat config of a pre-training; None for an evaluation or imported weights, and, with a line, for damage."""
    try:
        settings = flatten(read_config(folder))
    except UserError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return None
    return settings if settings.keys() >= _NEEDED else None


def _method(settings: dict[str, Any]) -> tuple:
    """What makes a row of Tables 7 and 8: views, terms and, where a term looks at them, instances."""
    terms = tuple(settings[name] > 0 for name in _TERMS)
    instances = (settings["views.proposals"], settings["views.num_instances"]) if any(terms[1:]) else None
    return settings["views.overlap"], terms, instances


def _distance(row: Row, settings: dict[str, Any]) -> tuple:
    data = Path(settings["data.train"])
    photos = _num_photos(data) or PHOTOS["coco"]
    return (
        data.name != row.data,
        row.settings["optimizer.name"] != settings["optimizer.name"],
        abs(row.settings["num_epochs"] - settings["num_epochs"]),
        abs(PHOTOS[row.data] - photos),
    )


def rows_of(settings: dict[str, Any] | None, rows: tuple[Row, ...]) -> list[Row]:
    """The rows that a run with these settings belongs to: of its method, the nearest; several where they are alike."""
    if not settings:
        return [row for row in rows if not row.data and settings is not None]
    same = [row for row in rows if row.data and _method(row.settings) == _method(settings)]
    nearest = min((_distance(row, settings) for row in same), default=None)
    return [row for row in same if _distance(row, settings) == nearest]


def _num_photos(data: Path) -> int | None:
    """Of a prepared data set; None where it is not here."""
    try:
        return int(json.loads((data / _MANIFEST).read_text())["num_records"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pretraining_differences(row: Row, settings: dict[str, Any]) -> list[str]:
    """How a run's settings and data differ from those of the row, in words."""
    data, said = Path(settings["data.train"]), []
    for name in sorted(row.settings.keys() | settings.keys()):
        ours, theirs = settings.get(name), row.settings.get(name)
        if ours != theirs and name not in _NO_DIFFERENCE and not name.startswith("knn."):
            said.append(f"{name} {ours}, not {theirs}")
    photos = _num_photos(data)
    if photos not in (None, PHOTOS[row.data]):
        said.append(f"pre-trained on {photos:,} photos, not {PHOTOS[row.data]:,}")
    elif photos is None and data.name != row.data:
        said.append(f"pre-trained on {data}, not {row.data}")
    return said


def _total_steps(row: Row, settings: dict[str, Any]) -> int:
    """The length of a run; 0 where its data set is neither here nor called as the paper's."""
    data = Path(settings["data.train"])
    photos = _num_photos(data) or (PHOTOS[row.data] if data.name == row.data else 0)
    return settings["num_steps"] or round(settings["num_epochs"] * (photos // settings["batch_size"]))


def _untrained_differences(result: Result) -> list[str]:
    """An untrained network has no run: its evaluation says what it was."""
    try:
        settings = result.values.get("settings") or flatten(read_config(result.path.parent))
    except UserError:
        settings = {}
    network = settings.get("model.backbone"), settings.get("model.width")
    return [] if network == ("resnet50", 1.0) else [f"network {network[0]} of width {network[1]}, not resnet50 of 1.0"]


def differences(row: Row, result: Result) -> list[str]:
    """How the settings and data of a result differ from those of the paper's, in words; empty where they do not."""
    values, settings, evaluation, said = result.values, result.settings, row.evaluation, []
    if settings:
        said += pretraining_differences(row, settings)
        if values["step"] < (total := _total_steps(row, settings)):
            said.append(f"step {values['step']:,} of {total:,}")
    else:
        said += _untrained_differences(result)
    if values.get("epochs") != evaluation.num_epochs:
        said.append(f"evaluated by {values.get('epochs')} epochs, not {evaluation.num_epochs}")
    if values.get("image_size") != 224:
        said.append(f"evaluated at {values.get('image_size')} px, not 224")
    if values.get("classes") != evaluation.num_classes:
        said.append(f"{values.get('classes')} classes, not {evaluation.num_classes:,}")
    for part, expected in (("train", evaluation.num_train), ("test", evaluation.num_test)):
        if (images := values[part]["images"]) != expected:
            said.append(f"{part} set of {images:,} photos, not {expected:,}")
    return said
