"""The config of a row of the ablation: configs/common.py or configs/demo.py with the fields of a budget."""

import ast
import re

from ml_collections import ConfigDict
from ml_collections.config_flags import config_path

from configs import common, demo
from univip_jax.common.errors import UserError

# Two augmentations per instance: with one, each instance is matched with itself (notes.md).
_SHARED = {
    "views.min_box_side": 16,
    "augment.instances": "independent",
    "model.stem": "small",
    "log_every_steps": 50,
}
BUDGETS = {
    # For one CPU core, on the scenes of `benchmarks.scenes --digits`; all else is configs/demo.py.
    "digits": {"num_steps": 750, "views.instance_size": 16},
    # For two CPU cores: less than 2 hours for Table 7 with one seed.
    "tiny": _SHARED
    | {
        "batch_size": 64,
        "num_steps": 3000,
        "views.scene_size": 32,
        "views.instance_size": 16,
        "model.backbone": "resnet10",
        "model.width": 0.125,
        "model.hidden": 512,
        "model.projection": 128,
        "model.dtype": "float32",
        "optimizer.lr": 0.4,
        "optimizer.warmup_epochs": 2.0,
    },
    # For one H200: less than 25 minutes for Table 7 with one seed. Not run yet.
    "small": _SHARED
    | {
        "batch_size": 512,
        "num_steps": 8000,
        "views.scene_size": 48,
        "views.instance_size": 24,
        "model.backbone": "resnet18",
        "model.width": 1.0,
        "model.hidden": 2048,
        "model.projection": 256,
        "model.dtype": "bfloat16",
        "optimizer.lr": 0.2,
        "optimizer.warmup_epochs": 4.0,
    },
}


def parse_changes(text: str) -> dict[str, str]:
    """`a.b=1,c=(2,3)` as a dict; a comma in brackets separates nothing.

    Raises UserError for a part without a value.
    """
    parts = re.split(r",(?![^(]*\))", text) if text else []
    if wrong := [part for part in parts if "=" not in part]:
        raise UserError(f"{wrong[0]!r} has no value; give e.g. optimizer.lr=0.2")
    return dict(part.split("=", 1) for part in parts)


def row_config(budget: str, table: int, row: str, seed: int, changes: dict[str, str]) -> ConfigDict:
    """The config of a row (`a` to `e` of Table 7, `naive`, `k2`, ... of Table 8) at a budget.

    Raises UserError if a changed field is unknown or its value has another type.
    """
    config = (demo if budget == "digits" else common).get_config()
    config.update_from_flattened_dict(BUDGETS[budget] | {"seed": seed})
    common.apply_rows(config, f"table{table}={row}")
    for name, value in changes.items():
        try:
            old = config_path.get_value(name, config)
            config_path.set_value(name, config, value if isinstance(old, str) else ast.literal_eval(value))
        except (AttributeError, KeyError, SyntaxError, TypeError, ValueError) as error:
            raise UserError(f"{name}={value}: {' '.join(str(error).split())}") from error
    return config
