"""The config of a row of the ablation: configs/common.py or configs/demo.py with the fields of a budget."""

import ast
import re

from ml_collections import ConfigDict
from ml_collections.config_flags import config_path

from configs import common, demo
from univip_jax.common.errors import UserError

BUDGETS = {
    # One CPU core, a minute a row: configs/demo.py but for its length, for scenes of `benchmarks.scenes --digits`.
    "tiny": {"num_steps": 750},
    # A GPU, for scenes of photos. Not run yet; by arithmetic less than 8 minutes a row on an H100: row e has 10 GFLOP
    # an image, so 5 TFLOP a step; at 100 TFLOP/s (a tenth of the peak) and with 10 ms for views and augmentation 4,000
    # steps take 4 minutes.
    "small": {
        "views.scene_size": 48,
        "views.instance_size": 32,  # at 16 px a crop keeps little but its colour
        "views.min_box_side": 16,
        "log_every_steps": 50,
        "batch_size": 512,
        "num_steps": 4000,
        "model.backbone": "resnet18",
        "model.stem": "small",
        "model.hidden": 2048,
        "model.projection": 256,
        "model.dtype": "bfloat16",
        "optimizer.lr": 0.2,
        "optimizer.warmup_epochs": 10.0,
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
    config = (demo if budget == "tiny" else common).get_config()
    config.update_from_flattened_dict(BUDGETS[budget] | {"seed": seed})
    common.apply_rows(config, f"table{table}={row}")
    for name, value in changes.items():
        try:
            old = config_path.get_value(name, config)
            config_path.set_value(name, config, value if isinstance(old, str) else ast.literal_eval(value))
        except (AttributeError, KeyError, SyntaxError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{name}={value}: there is no such field, or its type is another ({reason})") from error
    return config
