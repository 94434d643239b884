"""UniVIP on COCO train2017 (118k photos), 800 epochs.

    python -m data_prep --source=images --images=train2017 --out=data/coco
    python main.py --config=configs/coco.py --workdir=runs/coco
    python main.py --config=configs/coco.py:table7=a --workdir=runs/byol     # any row of Tables 7 and 8

Cost: 8.3e18 FLOP (87 GFLOP per image, from the compiled step).
The paper's numbers: linear top-1 60.2, Mask R-CNN 1x 40.8 / 36.8.
`table8=annotated` needs a data set prepared with --annotations=instances_train2017.json.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """The COCO recipe; `arg` as in `common.get_config`."""
    config = common.get_config(arg)
    config.row = f"coco:{arg}"
    return config
