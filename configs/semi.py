"""Semi-supervised fine-tuning by ORL's protocol (`semi_orl`; Table 6), with 1 % or 10 % of the labels of ImageNet.

    python main.py --config=configs/semi.py:labels=1 --config.pretrained=runs/coco --workdir=runs/coco_semi1 \\
        --config.data.train=imagenet2012_subset/1pct:train --config.data.subset=all \\
        --config.data.test=imagenet2012:validation

With class folders and a list of SimCLR's: `--config.data.train=imagenet/train --config.data.subset=1percent.txt`.

Cost: 9 fine-tunings of 20 epochs on 80 % of the subset and one on all of it: 2.1 million photos with 1 %.
The paper's top-1 with 1 % / 10 % (ResNet-50): COCO 31.6 / 61.3, COCO+ 32.3 / 61.7, ImageNet 53.0 / 67.1.
"""

from ml_collections import ConfigDict

from configs.evaluation import shared_fields

WEIGHT_DECAY = {"labels=1": 5e-4, "labels=10": 1e-4}


def get_config(arg: str = "labels=1") -> ConfigDict:
    """`arg` is `labels=1` or `labels=10`, percent of the labels. *(ours)* marks what the protocol leaves open."""
    if arg not in WEIGHT_DECAY:
        raise ValueError(f"config argument {arg!r} is unknown; choose labels=1 or labels=10")
    config = shared_fields("semi")
    config.labels = int(arg.removeprefix("labels="))  # percent
    # Which photos of data.train: `all` if it is the subset itself; a text file with one name per line, as SimCLR's
    # 1percent.txt, or one path in data.train; or `drawn`: `labels` percent of each class (ours).
    config.data.subset = ""
    config.num_epochs = 20
    config.lr = (0.001, 0.01, 0.1)  # for a batch of 256; grows linearly with the batch
    config.head_multiplier = (1.0, 10.0, 100.0)  # factor of the rate for the linear layer; each with each lr
    config.milestones = (12, 16)  # epochs; each multiplies the rate by `decay`
    config.decay = 0.2
    config.momentum = 0.9  # not Nesterov's (ORL's code)
    config.weight_decay = WEIGHT_DECAY[arg]  # of every parameter
    config.held_out = 0.2  # share of the subset that judges the grid, never the test set (ours)
    return config
