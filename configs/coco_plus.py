"""UniVIP on COCO+ (train2017 and unlabeled2017, 241k photos), 800 epochs.

    python -m data_prep --source=images --images=train2017 --images=unlabeled2017 --out=data/coco_plus
    python main.py --config=configs/coco_plus.py --workdir=runs/coco_plus

Twice the cost of COCO. The paper's numbers: linear top-1 63.0, Mask R-CNN 1x 41.1 / 37.1.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """The COCO recipe on other data; `arg` as in `common.get_config`."""
    config = common.get_config(arg)
    config.row = f"coco_plus:{arg}"
    config.data.train = "data/coco_plus"
    return config
