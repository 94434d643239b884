"""k-NN on the frozen features of a run; no training.

    python main.py --config=configs/knn.py --config.pretrained=runs/coco --workdir=runs/coco_knn \\
        --config.data.train=imagenet2012:train --config.data.test=imagenet2012:validation

`--config.pretrained=random` is the untrained network of `model`: the number to beat.
Cost: one forward pass of both sets, split over all devices of all processes; an interrupted one goes on where it was.
The features stay in the workdir, for other k and temperatures: 10.9 GB for ImageNet's sets and a ResNet-50. The vote
is process 0's, on one device, where 65,536 training photos (0.5 GB) are at a time; of the rest the host maps the file.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Fields shared with the linear probe have the same meaning there."""
    config = ConfigDict()
    config.task = "knn"
    config.pretrained = ""  # a run's folder, or `random`
    config.step = 0  # of the run's checkpoint; 0: the newest
    config.seed = 0  # of the network where pretrained=random
    config.data = ConfigDict()
    config.data.train = ""  # a folder with a folder for each class, or NAME:SPLIT of TFDS
    config.data.test = ""
    config.image_size = 0  # px, side of the centre crop; 0: the side of the run's scenes
    config.batch_size = 256  # photos at once in each process
    config.k = (20, 200)  # neighbours; `top1` is that of the first
    config.temperature = 0.07
    config.model = common.get_config().model  # where pretrained=random
    return config
