"""A few minutes on two CPU cores: scenes of handwritten digits, a net of 8 to 64 channels.

    python -m demo      # makes the data, prepares it, trains by this config, evaluates

demo/notes.md: the linear probe on held-out digits before and after training, and what else was tried.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """A small net, small views and a short schedule; `arg` as in `common.get_config`."""
    config = common.get_config(arg)
    config.batch_size = 64
    config.num_steps = 500
    config.log_every_steps = 50
    config.checkpoint_every_steps = 100

    config.views.scene_size = 24
    config.views.instance_size = 16
    config.views.num_instances = 2  # a scene has 2 to 4 digits
    config.views.min_proposals = 1
    config.views.min_box_side = 16
    config.views.area = (0.3, 1.0)

    # A mirrored digit is not a digit. Views with jittered colours differ mostly in their colours at first: a small net
    # then predicts the mean colour, and nothing else, for longer than a demo lasts.
    config.augment.flip = 0.0
    config.augment.jitter = 0.0
    config.augment.greyscale = 0.0
    config.augment.blur = (0.5, 0.1)
    config.augment.solarize = (0.0, 0.0)

    config.model.backbone = "resnet10"
    config.model.width = 0.125
    config.model.stem = "small"
    config.model.hidden = 1024
    config.model.projection = 128
    config.model.dtype = "float32"

    config.optimizer.lr = 0.4
    config.optimizer.warmup_epochs = 1.0
    return config
