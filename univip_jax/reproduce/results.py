"""Results of evaluations, the pre-trainings behind them, and how both differ from a row of the paper's tables."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from univip_jax.common.errors import UserError
from univip_jax.config import flatten
from univip_jax.data import MANIFEST
from univip_jax.evaluate.results import RESULTS
from univip_jax.reproduce.rows import PHOTOS, TABLES, Row
from univip_jax.run.folder import CONFIG, FREE_FIELDS, read_config

RANDOM = "random"
# Fields that say where, how or with which seed a run was done. `photos` stands for the data set.
_NO_DIFFERENCE = {*FREE_FIELDS, "seed", "task", "data.train"}
_NEEDED = {"data.train", "batch_size", "num_epochs", "num_steps", "loss.scene"}
Settings = dict[str, Any]  # a flat config, with `photos`


@dataclass(frozen=True)
class Result:
    """A `results.json` and the settings of the network it evaluates; None if its training run was not found."""

    path: Path
    values: dict[str, Any]  # the contents of the file
    settings: Settings | None

    @property
    def run(self) -> str:
        """The run and its step, for people."""
        return f"{self.values['pretrained']}, step {self.values['step']}"


def find_runs(root: Path) -> dict[Path, Settings]:
    """The pre-trainings below `root`; stderr names damaged ones."""
    runs = {}
    for path in sorted(root.rglob(CONFIG)):
        try:
            settings = flatten(read_config(path.parent))
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        if settings.keys() >= _NEEDED:
            runs[path.parent] = settings | {"photos": _photos(Path(settings["data.train"]))}
    return runs


def _photos(data: Path) -> int | str:
    """Photos of a prepared data set; if it is not on this machine, by its name, or else its path."""
    try:
        return int(json.loads((data / MANIFEST).read_text())["num_records"])
    except (OSError, ValueError, KeyError, TypeError):
        return PHOTOS.get(data.name, str(data))


def read_results(root: Path, runs: dict[Path, Settings]) -> list[Result]:
    """All results below `root`, equal ones once; stderr names each file that is not a result of this project."""
    found = {}
    for path in sorted(root.rglob(RESULTS)):
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
        found[json.dumps(values, sort_keys=True)] = Result(path, values, _settings_of(path, values, root, runs))
    return list(found.values())


def _settings_of(path: Path, values: dict[str, Any], root: Path, runs: dict[Path, Settings]) -> Settings | None:
    """For a path of another machine, the settings of the run below `root` whose path ends like it."""
    if values["pretrained"] != RANDOM:
        parts = Path(values["pretrained"]).parts
        folders = (root.joinpath(*parts[start:]) for start in range(len(parts)))
        return next((runs[folder] for folder in folders if folder in runs), None)
    try:  # older versions of an evaluation left its settings in its config alone
        settings = values.get("settings") or flatten(read_config(path.parent))
    except UserError:
        settings = {}
    return {name: settings.get(name) for name in ("model.backbone", "model.width")}


def score(values: dict[str, Any]) -> float:
    """The main figure of a result: top-1 or mAP, percent."""
    return values["map"] if "map" in values else values["top1"]


def rows_of(result: Result, rows: tuple[Row, ...]) -> list[Row]:
    """The rows that a network belongs to: those with exactly its settings, else those that its config names.

    A row has several names where tables share a pre-training. Configs of older versions name no row.
    """
    if result.values["pretrained"] == RANDOM or not result.settings:
        return [row for row in rows if not row.data and result.settings]
    name = result.settings.get("row")
    named = [row.settings for table in TABLES.values() for row in table.rows if row.recipe == name]
    exact = [row for row in rows if row.data and not difference(row.settings, result.settings)]
    return exact or [row for row in rows if row.settings in named]


def difference(expected: Settings, found: Settings) -> list[str]:
    """Fields that differ, each with both values; empty if none does."""
    return [
        f"{name} {found.get(name, 'missing')}, not {expected.get(name, 'set')}"
        for name in sorted(expected.keys() | found.keys())
        if found.get(name) != expected.get(name) and name not in _NO_DIFFERENCE and not name.startswith("knn.")
    ]


def differences(row: Row, result: Result) -> list[str]:
    """How a result differs from the paper's settings: pre-training, evaluation, an unfinished run."""
    values, settings, total = result.values, result.settings, 0
    if values["pretrained"] != RANDOM:
        photos = settings["photos"] if isinstance(settings["photos"], int) else 0
        total = settings["num_steps"] or round(settings["num_epochs"] * (photos // settings["batch_size"]))
    evaluation = {
        **{f"evaluation.{name}": values.get(name) for name in ("epochs", "image_size", "classes")},
        **{f"evaluation.{part}_photos": values[part]["images"] for part in ("train", "test")},
    }
    unfinished = [f"step {values['step']} of {total}"] if values["step"] < total else []
    return [*difference(row.settings, settings), *unfinished, *difference(row.evaluation.settings, evaluation)]
