"""Results of evaluations, the pre-trainings behind them, and how both differ from a row of the paper's tables."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import TransientError, UserError
from univip_jax.common.files import at
from univip_jax.config import flatten
from univip_jax.data import MANIFEST
from univip_jax.evaluate.results import RESULTS
from univip_jax.reproduce.rows import LAYERS, PHOTOS, RANDOM, TABLES, Evaluation, Fields, Row
from univip_jax.run.folder import CONFIG, FREE_FIELDS, read_config

# Fields that say where, how or with which seed a run was done. `photos` stands for the data set.
_NO_DIFFERENCE = {*FREE_FIELDS, "seed", "task", "data.train"}
AS_IT_IS = "judged as it is"  # stands for the protocol of a detector that was not trained here
Settings = dict[str, Any]  # a flat config, with `photos`


@dataclass(frozen=True)
class Result:
    """A `results.json`."""

    path: Path
    run: str  # the field `pretrained`, or its path
    step: int
    protocol: str
    part: str  # as that of `Evaluation`
    scores: dict[str, float]  # percent, the main one first
    evaluation: Settings
    settings: Settings | None  # of the network's training; None if it was not found
    layers: dict[str, float] = field(default_factory=dict)  # percent, top-1 of the heads of `LAYERS`
    changed: tuple[str, ...] = ()  # what is not as the protocol has it

    @property
    def name(self) -> str:
        """The protocol and its part."""
        return f"{self.protocol} {self.part}".strip()


def find_runs(root: Path) -> dict[Path, Settings]:
    """The pre-trainings below `root`; stderr names damaged ones."""
    runs = {}
    for path in sorted(root.rglob(CONFIG)):
        try:
            settings = flatten(read_config(path.parent))
        except TransientError:
            raise
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        if "loss.scene" in settings:  # an evaluation has none
            runs[path.parent] = settings | {"photos": _photos(settings["data.train"])}
    return runs


def _photos(data: str) -> int | str:
    """Photos of a prepared data set; if it is not on this machine, or closed, by its name, or else its path."""
    try:
        return int(json.loads((at(data) / MANIFEST).read_text())["num_records"])
    except TransientError:
        raise
    except (OSError, UserError, ValueError, KeyError, TypeError):
        return PHOTOS.get(PurePosixPath(data).name, data if is_bucket(data) else str(Path(data)))


def read_results(root: Path, runs: dict[Path, Settings]) -> list[Result]:
    """All results below `root`, equal ones once; stderr names each file that is not a result of this project."""
    found = {}
    for path in sorted(root.rglob(RESULTS)):
        try:
            values = json.loads(path.read_text())
            if "runs" not in values:  # else a sweep's summary; its evaluations lie below it
                found[json.dumps(values, sort_keys=True)] = _parse(path, values, root, runs)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"skipped: {path} is not a result of this project ({type(error).__name__}: {error})", file=sys.stderr)
    return list(found.values())


def _parse(path: Path, values: dict[str, Any], root: Path, runs: dict[Path, Settings]) -> Result:
    fields = _read_detection(values) if "box" in values else _read_classification(values)
    run = fields["run"]
    if run == RANDOM:
        network = {name: values.get("settings", {}).get(name) for name in ("model.backbone", "model.width")}
        settings = {"row": RANDOM} | network
    else:  # the run whose path ends alike: `run` may be a path of another machine
        parts = PurePosixPath(run).parts
        folders = (root.joinpath(*parts[start:]) for start in range(len(parts)))
        settings = next((runs[folder] for folder in folders if folder in runs), None)
    return Result(path=path, settings=settings, **fields)


def _read_classification(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Result` that an evaluation by photos' labels has."""
    main = "map" if "map" in values else "top1"
    evaluation = {name: values.get(name) for name in ("epochs", "image_size", "classes")}
    if pooling := values.get("chosen", {}).get("pooling"):
        evaluation["pooling"] = pooling
    heads = {name: head["top1"] for name, head in values.get("heads", {}).items()}
    return {
        "protocol": values["protocol"],
        "part": f"{values['labels']}pct" if values.get("labels") else "",
        "run": str(values["pretrained"]),
        "step": int(values["step"]),
        "scores": {name: float(values[name]) for name in (main, "top5") if name == main or name in values},
        "layers": {name: heads[name] for name in LAYERS if heads.get(name) is not None},
        "evaluation": evaluation | {f"{part}_photos": int(values[part]["images"]) for part in ("train", "test")},
    }


def _read_detection(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Result` that a detector has."""
    protocol, _, changed = values.get("protocol", AS_IT_IS).partition(", changed: ")
    settings, photos = values["settings"], values.get("train", {}).get("photos")
    return {
        "protocol": protocol,
        "part": values.get("schedule", ""),
        "run": str(values["pretrained"]["path"]),
        "step": int(values["pretrained"]["step"]),
        "scores": {kind: float(values[kind]["AP"]) for kind in ("box", "mask") if kind in values},
        "evaluation": {
            "classes": len(values["per_class"]["box"]),
            "train_photos": photos,
            "test_photos": int(values["evaluated_photos"]),
        },
        "changed": tuple(f"{name} {settings.get(name, '')}".strip() for name in changed.split(", ") if name),
    }


def rows_of(result: Result, rows: tuple[Row, ...]) -> list[Row]:
    """The rows that a network belongs to: those with exactly its settings, else those that its config names.

    A row has several names where tables share a pre-training. Configs of older versions name no row.
    """
    if result.settings is None:
        return []
    name = result.settings.get("row")
    named = [row.settings for table in TABLES.values() for row in table.rows if row.config == name]
    exact = [row for row in rows if not difference(row.settings, result.settings, row.accepted)]
    return exact or [row for row in rows if row.settings in named]


def difference(expected: Settings, found: Settings, accepted: Fields = ()) -> list[str]:
    """Fields that differ, each with both values; empty if none does."""
    return [
        f"{name} {found.get(name, 'missing')}, not {expected.get(name, 'set')}"
        for name in sorted(expected.keys() | found.keys())
        if found.get(name) != expected.get(name) and name not in _NO_DIFFERENCE and not name.startswith("knn.")
        if (name, found.get(name)) not in accepted
    ]


def differences(row: Row, evaluation: Evaluation, result: Result) -> list[str]:
    """How a result differs from the paper's settings: pre-training, evaluation, an unfinished run, heads it lacks."""
    settings, total = result.settings, 0
    if isinstance(settings.get("photos"), int):
        total = settings["num_steps"] or round(settings["num_epochs"] * (settings["photos"] // settings["batch_size"]))
    unfinished = [f"step {result.step} of {total}"] if result.step < total else []
    lacking = [name for name in LAYERS if row.best_layer and name not in result.layers]
    return [
        *difference(row.settings, settings, row.accepted),
        *unfinished,
        *(f"evaluation.{one}" for one in difference(dict(evaluation.expected), result.evaluation)),
        *(f"{name}, not the protocol's" for name in result.changed),
        *([f"no heads of {', '.join(lacking)}: the paper's is the best of five"] if lacking else []),
    ]


def accepted(row: Row, result: Result) -> list[str]:
    """The row's accepted values that the pre-training has, to print beside its result."""
    return [f"{name} {value}: accepted" for name, value in row.accepted if result.settings.get(name) == value]
