"""UniVIP on COCO train2017 (118k photos), 800 epochs.

    python -m data_prep --source=images --images=train2017 --out=data/coco
    python main.py --config=configs/coco.py --workdir=runs/coco
    python main.py --config=configs/coco.py:table7=a --workdir=runs/byol     # any row of Tables 7 and 8

Cost: 8.3e18 FLOP (87 GFLOP an image, from the compiled step).
The paper's numbers: linear top-1 60.2, Mask R-CNN 1x 40.8 / 36.8.
`table8=annotated` needs a data set that was prepared with --annotations=instances_train2017.json.
"""

from configs.common import get_config

__all__ = ["get_config"]
