"""Linear probe on the frozen features of a run, by MoCo's protocol (`linear_moco`) or a logistic regression.

    python main.py --config=configs/linear.py --config.pretrained=runs/coco --workdir=runs/coco_linear \\
        --config.data.train=imagenet2012:train --config.data.test=imagenet2012:validation

Cost: 100 forward passes of the training set, one with `--config.protocol=logistic`.
`--config.pretrained=random` is the baseline.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """`linear_moco` is SGD, lr 30 at a batch of 256, momentum 0.9, 100 epochs, x0.1 at 60 and 80; crop and flip."""
    config = ConfigDict()
    config.task = "linear"
    config.protocol = "linear_moco"  # or logistic: scikit-learn's, on features computed once
    config.pretrained = ""  # a run's folder, or `random`
    config.step = 0  # of the run's checkpoint; 0: the newest
    config.seed = 0  # of the probe, its crops, and of the network where pretrained=random
    config.data = ConfigDict()
    config.data.train = ""  # a folder with a folder for each class, or NAME:SPLIT of TFDS
    config.data.test = ""
    config.image_size = 0  # px, side of the crops; 0: the side of the run's scenes
    config.batch_size = 256
    config.num_epochs = 100
    config.lr = 30.0  # for a batch of 256; grows linearly with the batch
    config.milestones = (60, 80)  # epochs
    config.momentum = 0.9
    config.weight_decay = 0.0
    config.inverse_l2 = 1.0  # scikit-learn's C, and its default; logistic alone
    config.model = common.get_config().model  # where pretrained=random
    return config
