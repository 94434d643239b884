"""k-NN on the frozen features of a run; no training.

    python main.py --config=configs/knn.py --config.pretrained=runs/coco --workdir=runs/coco_knn \\
        --config.data.train=imagenet2012:train --config.data.test=imagenet2012:validation

`--config.pretrained=random` is the untrained network of `model`: the number to beat.
Cost: one forward pass of both sets, split over all devices of all processes; an interrupted one goes on where it was.
The features stay in the workdir, for other k and temperatures: 10.9 GB for ImageNet's sets and a ResNet-50. The vote
is process 0's, on one device, where 65,536 training photos (0.5 GB) are at a time; of the rest the host maps the file.
"""

from ml_collections import ConfigDict

from configs.evaluation import shared_fields


def get_config() -> ConfigDict:
    """Fields shared with the linear probe have the same meaning there."""
    config = shared_fields("knn")
    config.k = (20, 200)  # neighbours; `top1` is that of the first
    config.temperature = 0.07
    return config
