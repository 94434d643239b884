"""The folder of a run: it belongs to one config, which `config.json` holds."""

import json
import shlex
from pathlib import Path

from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.common.files import at, write_whole
from univip_jax.config import flatten

CONFIG = "config.json"
STARTED_FROM = "started_from"  # in it, where `config.init` names weights: which they were
PHOTO_WARNINGS = "photo_warnings.txt"  # what in the data set cannot teach; the data set may move or go
# Fields that may change when a run resumes: they do not enter its weights. A data set has a fingerprint.
FREE_FIELDS = (
    "row",
    "log_every_steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "keep_every_steps",
    "max_bad_steps",
    "stall_seconds",
    "allow_changes",
    "data.num_threads",
    "data.cache",
    "data.cache_gb",
    "data.train",
    "data.test",
)
_FREE_SECTIONS = ("knn.", "test.")
# What a run did whose config.json lacks the field, because it is older than the field. Add each new field here, with
# the value that stands for the behaviour before it.
BEFORE = {
    "init": "",  # of a pre-training
    "augment.color": "byol",
    "augment.blur_kernel": "byol",
    "views.crop": "uniform",
    "views.interpolation": "bilinear",
    "views.canvas": 0,  # views were cut on the host
    "model.init": "fan_out",
    "model.predictors": "one",
    "model.running_stats": "all",
    "transport.marginals": "affinity",
    "transport.plan": "sinkhorn",
    "transport.stop_gradient": True,
}
_WEIGHTS = f"{STARTED_FROM}.weights"
_GONE = ("transport.marginal_features",)  # fields of older runs, whose values nothing can give any more


def allowed_changes(config: ConfigDict) -> set[str]:
    """The fields that `allow_changes` names; `data.train` stands for the data set's contents."""
    return {name.strip() for name in config.allow_changes.split(",")}


def _identity(flat: dict) -> dict:
    """Of what `init` named, the digest of the weights alone: a place and a step may be told otherwise."""
    return {name: value for name, value in flat.items() if name == _WEIGHTS or not name.startswith(STARTED_FROM)}


def check_config(run: Path, config: ConfigDict) -> None:
    """Checks that the folder has no `config.json`, or that of the same run.

    Raises UserError that names the fields whose values differ and that `allow_changes` does not name.
    """
    if not (run / CONFIG).exists():
        return
    old, new = (_identity(flatten(one)) for one in (read_config(run), config))
    refused = {}
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) == new.get(name) or name in FREE_FIELDS or name.startswith(_FREE_SECTIONS):
            continue
        change = f"{name} was {old.get(name)!r} and is now {new.get(name)!r}"
        if name.replace(_WEIGHTS, "init") not in allowed_changes(config):
            refused[name] = change
        else:
            print(f"changed on purpose: {change}")
    if _WEIGHTS in refused and "init" not in refused:
        raise UserError(
            f"init={config.init} holds other weights than {run} began from: choose another --workdir, or put the "
            "earlier ones back"
        )
    if "views.canvas" in refused and not old["views.canvas"]:
        raise UserError(
            f"{run} cut its views on the host, which this version does not: choose another --workdir, resume it by the "
            f"version that began it, or go on with views of the accelerator by "
            f"--config.allow_changes={','.join(refused)}"
        )
    if refused:
        values = {name: tuple(old[name]) if isinstance(old.get(name), list) else old.get(name) for name in refused}
        flags = " ".join(f"--config.{name}={shlex.quote(str(value))}" for name, value in values.items())
        raise UserError(
            f"{run} is a run of another config: {', '.join(refused.values())}; choose another --workdir, resume this "
            f"run by {flags}, or change it on purpose by --config.allow_changes={','.join(refused)}"
        )


def write_config(run: Path, config: ConfigDict) -> None:
    """Writes `config.json`."""
    write_whole(run / CONFIG, json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True) + "\n")


def read_config(run: Path) -> ConfigDict:
    """The resolved config of a run's folder, with `BEFORE` for what it lacks; UserError where the folder is no run."""
    path = at(run) / CONFIG
    if not path.is_file():
        raise UserError(f"{run} is no run: it has no {CONFIG}; name the --workdir of a finished or running training")
    try:
        config = ConfigDict(json.loads(path.read_text()))
        for name, value in BEFORE.items():
            section, _, field = name.rpartition(".")
            if section in config and field not in config[section]:
                config[section][field] = value
            elif not section and config.get("task") == "train" and field not in config:
                config[field] = value
        for section, field in (name.split(".") for name in _GONE):
            if field in config.get(section, ()):
                del config[section][field]
        return config
    except (ValueError, AttributeError, TypeError) as error:  # what is JSON may still be no object
        raise UserError(f"{path} is damaged ({error}); restore it or train anew in another --workdir") from error


def write_photo_warnings(run: Path, lines: list[str]) -> None:
    """Writes `photo_warnings.txt`, a line each; without any, there is no such file."""
    if lines:
        write_whole(run / PHOTO_WARNINGS, "".join(f"{line}\n" for line in lines))
    else:
        (run / PHOTO_WARNINGS).unlink(missing_ok=True)


def read_photo_warnings(run: Path) -> list[str]:
    """The lines of `write_photo_warnings`."""
    path = run / PHOTO_WARNINGS
    return path.read_text(errors="replace").splitlines() if path.is_file() else []
