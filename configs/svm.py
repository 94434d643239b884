"""Linear SVMs on the frozen features of a run, by the protocol for VOC07 of Goyal et al. (2019) and ORL.

    python main.py --config=configs/svm.py --config.pretrained=runs/coco --workdir=runs/coco_svm \\
        --config.data.train=VOCdevkit/VOC2007:trainval --config.data.test=VOCdevkit/VOC2007:test

or `voc/2007:train+validation` and `voc/2007:test` of TFDS. Photos with one class each are judged one against the rest.
Average precision is the area under the interpolated curve at all points, as in the benchmark's code.

Cost: one forward pass of 9,963 photos, cached in the workdir (0.33 GB for a ResNet-50); then, on the CPU, 200 SVMs on
all photos and, for `low_shot`, 15,200 on few.
"""

from ml_collections import ConfigDict

from configs.evaluation import shared_fields


def get_config() -> ConfigDict:
    """`svm_voc07`: resized to 256, squashed to 224; res5 pooled to 8192 features, of length 1; C by 3 folds."""
    config = shared_fields("svm")
    config.image_size = 224  # px, side of the squashed photo; 0: the side of the run's scenes
    config.costs = (1.0, 10.0, 100.0)  # C to choose from; the benchmark's scripts add the ones below
    config.low_shot = (1, 2, 4, 8, 16, 32, 64, 96)  # photos of each class; (): none of it
    config.num_draws = 5
    config.low_shot_costs = (1.0, 10.0, 100.0, *(0.5**n for n in range(4, 20)))  # the benchmark's
    config.num_workers = 0  # processes that fit SVMs; 0: one for each core
    return config
