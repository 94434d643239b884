"""k-NN on the frozen features of a run; no training.

    python main.py --config=configs/knn.py --config.pretrained=runs/coco --workdir=runs/coco_knn \\
        --config.data.train=imagenet2012:train --config.data.test=imagenet2012:validation

`--config.pretrained=random` is the untrained network of `model`: the number to beat.
Cost: one forward pass of both sets, split over all devices of all processes; an interrupted pass resumes. The features
are cached in the workdir (10.9 GB for ImageNet's sets and a ResNet-50): for another temperature, move `features/` to
another workdir. Process 0 votes, with 65,536 training photos (0.5 GB) on one device at a time and the rest on the disk.
"""

from ml_collections import ConfigDict

from configs.evaluation import shared_fields


def get_config() -> ConfigDict:
    """Wu et al.'s temperature, and the numbers of neighbours that are usually reported."""
    config = shared_fields("knn")
    config.k = (20, 200)  # neighbours; `top1` is for the first
    config.temperature = 0.07
    return config
