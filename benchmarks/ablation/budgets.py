"""The config of a row of the ablation: configs/common.py with the fields of a budget."""

import ast

from ml_collections import ConfigDict
from ml_collections.config_flags import config_path

from configs import common
from univip_jax.common.errors import UserError

# Two augmentations per instance: with one, each instance is matched with itself (notes.md).
_SHARED = {
    "views.min_box_side": 16,
    "augment.instances": "independent",
    "model.stem": "small",
    "log_every_steps": 50,
}
BUDGETS = {
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


def row_config(budget: str, table: int, row: str, seed: int, changes: dict[str, str]) -> ConfigDict:
    """The config of a row (`a` to `e` of Table 7, `naive`, `k2`, ... of Table 8) at a budget.

    Raises UserError if a changed field is unknown or its value has another type.
    """
    config = common.get_config(f"table{table}={row}")
    config.seed = seed
    config.update_from_flattened_dict(BUDGETS[budget])
    for name, value in changes.items():
        try:
            old = config_path.get_value(name, config)
            config_path.set_value(name, config, value if isinstance(old, str) else ast.literal_eval(value))
        except (AttributeError, KeyError, SyntaxError, TypeError, ValueError) as error:
            raise UserError(f"--set={name}={value}: {' '.join(str(error).split())}") from error
    return config
