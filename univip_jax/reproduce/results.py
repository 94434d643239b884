"""Results of evaluations, the pre-trainings behind them, and how both differ from a row of the paper's tables."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from univip_jax.common.errors import UserError
from univip_jax.config import flatten
from univip_jax.data import MANIFEST
from univip_jax.reproduce.rows import PHOTOS, TABLES, Row
from univip_jax.run.folder import CONFIG, FREE_FIELDS, read_config

_RESULTS = "results.json"
RANDOM = "random"
# Fields that say where, how or with which seed a run was done. The data set is compared by its number of photos.
_NO_DIFFERENCE = {*FREE_FIELDS, "seed", "task", "data.train"}
_NEEDED = {"loss.scene", "data.train", "batch_size", "num_epochs", "num_steps"}


@dataclass(frozen=True)
class Result:
    """A `results.json` and the flat config of the pre-training it evaluates."""

    path: Path
    values: dict[str, Any]  # the contents of the file
    settings: dict[str, Any] | None  # empty for an untrained network; None if the run was not found

    @property
    def run(self) -> str:
        """The run and its step, for people."""
        return f"{self.values['pretrained']}, step {self.values['step']}"


def read_results(root: Path) -> list[Result]:
    """All results below `root`, equal ones once; stderr names each file that is not a result of this project."""
    found = {}
    for path in sorted(root.rglob(_RESULTS)):
        try:
            values = json.loads(path.read_text())
            if "runs" in values and "steps" in values:
                continue  # a sweep's summary; its evaluations lie below it
            # What the tables need must be there.
            _ = str(values["protocol"]), Path(values["pretrained"]), int(values["step"]), float(score(values))
            _ = [int(values[part]["images"]) for part in ("train", "test")]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"skipped: {path} is not a result of this project ({type(error).__name__}: {error})", file=sys.stderr)
            continue
        found[json.dumps(values, sort_keys=True)] = Result(path, values, _settings_of(values["pretrained"], root))
    return list(found.values())


def score(values: dict[str, Any]) -> float:
    """The main figure of a result: top-1 or mAP, percent."""
    return values["map"] if "map" in values else values["top1"]


def find_pretrainings(root: Path) -> dict[Path, dict[str, Any]]:
    """Folder to flat config of each pre-training below `root`."""
    folders = sorted(path.parent for path in root.rglob(CONFIG))
    return {folder: settings for folder in folders if (settings := _read_settings(folder))}


def _settings_of(pretrained: str, root: Path) -> dict[str, Any] | None:
    """The config of the run at this path or, for another machine's path, of a run below `root` that ends like it."""
    if pretrained == RANDOM:
        return {}
    parts = Path(pretrained).parts
    folders = (Path(pretrained), *(root.joinpath(*parts[start:]) for start in range(len(parts))))
    return next((_read_settings(folder) for folder in folders if (folder / CONFIG).is_file()), None)


def _read_settings(folder: Path) -> dict[str, Any] | None:
    """The flat config of a pre-training; None for other folders and, with a line on stderr, for damaged ones."""
    try:
        settings = flatten(read_config(folder))
    except UserError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return None
    return settings if settings.keys() >= _NEEDED else None


def rows_of(settings: dict[str, Any] | None, rows: tuple[Row, ...]) -> list[Row]:
    """The rows that a pre-training belongs to: those with exactly its settings, else those that its config names.

    A row has several names where tables share a pre-training. Configs of older versions name no row.
    """
    if not settings:
        return [row for row in rows if not row.data and settings is not None]
    named = [row.settings for table in TABLES.values() for row in table.rows if row.recipe == settings.get("row")]
    exact = [row for row in rows if row.data and not pretraining_differences(row, settings)]
    return exact or [row for row in rows if row.settings in named]


def pretraining_differences(row: Row, settings: dict[str, Any]) -> list[str]:
    """How the config and the data of a run differ from the row's, in words."""
    differences = [
        f"{name} {settings.get(name, 'missing')}, not {row.settings.get(name, 'set')}"
        for name in sorted(row.settings.keys() | settings.keys())
        if settings.get(name) != row.settings.get(name) and name not in _NO_DIFFERENCE and not name.startswith("knn.")
    ]
    data, photos = Path(settings["data.train"]), _num_photos(settings)
    if photos is None and data.name != row.data:
        differences.append(f"pre-trained on {data}, not {row.data}")
    elif photos not in (None, PHOTOS[row.data]):
        differences.append(f"pre-trained on {photos:,} photos, not {PHOTOS[row.data]:,}")
    return differences


def _num_photos(settings: dict[str, Any]) -> int | None:
    """Photos of the prepared data set; None if it is not on this machine."""
    try:
        return int(json.loads((Path(settings["data.train"]) / MANIFEST).read_text())["num_records"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def differences(row: Row, result: Result) -> list[str]:
    """How a result's settings and data differ from the paper's, in words; empty if they do not."""
    values, evaluation = result.values, row.evaluation
    found = _run_differences(row, result)
    for name, ours, paper in (
        ("epochs of evaluation", values.get("epochs"), evaluation.num_epochs),
        ("px", values.get("image_size"), 224),
        ("classes", values.get("classes"), evaluation.num_classes),
        ("training photos", values["train"]["images"], evaluation.num_train),
        ("test photos", values["test"]["images"], evaluation.num_test),
    ):
        if ours != paper:
            found.append(f"{ours if ours is None else f'{ours:,}'} {name}, not {paper:,}")
    return found


def _run_differences(row: Row, result: Result) -> list[str]:
    if result.settings:
        found, steps, total = pretraining_differences(row, result.settings), result.values["step"], 0
        if photos := _num_photos(result.settings) or PHOTOS.get(Path(result.settings["data.train"]).name):
            total = round(result.settings["num_epochs"] * (photos // result.settings["batch_size"]))
        total = result.settings["num_steps"] or total
        return [*found, f"step {steps:,} of {total:,}"] if steps < total else found
    try:  # an untrained network has no run: the evaluation's config has its size
        settings = result.values.get("settings") or flatten(read_config(result.path.parent))
    except UserError:
        settings = {}
    network = settings.get("model.backbone"), settings.get("model.width")
    return [] if network == ("resnet50", 1.0) else [f"{network[0]} of width {network[1]}, not resnet50 of width 1.0"]
