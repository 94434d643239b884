"""The fields that all evaluations share."""

from ml_collections import ConfigDict

from configs import common


def shared_fields(task: str) -> ConfigDict:
    """The nine fields, to which the config of `task` adds its own."""
    config = ConfigDict()
    config.task = task
    config.pretrained = ""  # a run's folder, a file of weights, or `random`: the untrained network, the number to beat
    config.step = 0  # of the run's checkpoint; 0: the newest
    config.seed = 0  # of all that is drawn: the network where pretrained=random, heads, order, crops, photos held out
    config.data = ConfigDict()
    config.data.train = ""  # a folder with a folder for each class, or NAME:SPLIT of TFDS; svm: also DIR:SPLIT of VOC
    config.data.test = ""
    config.image_size = 0  # px, side of what the network sees; 0: the side of the run's scenes
    config.batch_size = 256  # images at once: knn, svm and logistic in each process, else over all devices
    config.model = common.get_config().model  # where pretrained=random
    return config
