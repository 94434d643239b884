"""UniVIP on ImageNet (1.28M photos), 300 epochs, by BYOL's recipe.

    python -m data_prep --source=images --images=imagenet/train --out=data/imagenet
    python main.py --config=configs/imagenet.py --workdir=runs/imagenet

For 200 epochs: --config.num_epochs=200, at the same rate (ORL). Operations are those of BYOL's own code where they
differ from PyTorch's. The paper's numbers: linear top-1 73.1 (200 epochs), 74.2 (300); Mask R-CNN 1x 42.2 / 38.2 (300).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """LARS and a batch of 4096; `arg` as in `common.get_config`."""
    config = common.get_config(arg)
    config.row = f"imagenet:{arg}"
    config.data.train = "data/imagenet"
    config.batch_size = 4096
    config.num_epochs = 300.0
    config.views.crop = "uniform"
    config.views.interpolation = "bicubic"
    config.augment.color = "byol"
    config.augment.blur_kernel = "byol"
    config.model.zero_init_residual = True
    config.model.init = "fan_out"
    config.optimizer.name = "lars"
    config.optimizer.lr = 0.3
    config.optimizer.weight_decay = 1e-6
    config.optimizer.warmup_epochs = 10.0
    return config
