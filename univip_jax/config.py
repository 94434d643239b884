"""The border between a ConfigDict and the frozen dataclasses inside."""

import dataclasses
import difflib
import json
from typing import Any, TypeVar

from ml_collections import ConfigDict

from univip_jax.common.errors import Misuse, UserError
from univip_jax.common.files import expand

Spec = TypeVar("Spec")
# Fields of any config.
PATHS = ("init", "pretrained", "data.train", "data.test", "data.subset", "data.cache", "knn.train", "knn.test")
# The least that a number of a training may be. Sections and evaluations have specs, which check themselves.
_LEAST = {
    **dict.fromkeys(
        (
            "seed",
            "num_epochs",
            "num_steps",
            "keep_every_steps",
            "data.num_threads",
            "data.cache_gb",
            "precise_bn",
            "test.num_photos",
            "stall_seconds",
        ),
        0,
    ),
    **dict.fromkeys(
        (
            "batch_size",
            "test.batch_size",
            "log_every_steps",
            "checkpoint_every_steps",
            "keep_checkpoints",
            "max_bad_steps",
        ),
        1,
    ),
}


def nearest(name: str, names: list[str]) -> str:
    """`; did you mean ...?` where a name is near, else the list of all."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(names))}"


def to_spec(kind: type[Spec], config: ConfigDict, section: str) -> Spec:
    """`kind(**config[section])`; raises UserError that names a field that is unknown or missing."""
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in config[section]:
        if name not in fields:
            raise UserError(f"config field {section}.{name} is unknown: {nearest(name, fields)}")
    for name in fields:
        if name not in config[section]:
            raise UserError(f"config field {section}.{name} is missing; configs/common.py has its default")
    # A config read back from JSON holds lists where the dataclasses have tuples.
    values = config[section].to_dict().items()
    return kind(**{name: as_tuples(value) for name, value in values})


def as_tuples(value: Any) -> Any:
    """The value with tuples for the lists that JSON makes of them."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def expand_paths(config: ConfigDict) -> None:
    """Expands the fields that are paths, see `expand`: `config.json` then says what was read, whoever reads it.

    Raises Misuse that names the field.
    """
    for name, value in flatten(config).items():
        if name in PATHS and isinstance(value, str):
            try:
                config.update_from_flattened_dict({name: expand(value)})
            except Misuse as error:
                raise Misuse(f"--config.{name}={error}") from error


def check_least(config: ConfigDict) -> None:
    """Raises UserError that names the first number which is less than it may be."""
    for name, value in flatten(config).items():
        least = _LEAST.get(name)
        if least is not None and any(number < least for number in (value if isinstance(value, list) else [value])):
            raise UserError(f"{name}={value} must be at least {least}")


def flatten(config: ConfigDict) -> dict:
    """Dotted names to values as JSON holds them: tuples are lists, references are their values."""
    flat = {}
    for name, value in json.loads(config.to_json()).items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": v for key, v in value.items()})
        else:
            flat[name] = value
    return flat
