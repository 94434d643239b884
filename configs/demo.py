"""A few minutes on two CPU cores: scenes of handwritten digits, a net of 16 to 128 channels.

    python -m demo      # makes the data, prepares it, trains by this config, evaluates

docs/benchmarks.md has what k-NN on held-out digits gave before and after.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    """A small net, small views and a short schedule; `arg` as in `common.get_config`."""
    config = common.get_config(arg)
    config.batch_size = 64
    config.num_steps = 400
    config.log_every_steps = 25
    config.checkpoint_every_steps = 200

    config.views.scene_size = 32
    config.views.instance_size = 16
    config.views.num_instances = 2  # a scene has 2 to 5 digits
    config.views.min_box_side = 16
    config.views.area = (0.12, 0.6)  # of a scene: about a digit

    # A mirrored digit is no digit. Colours carry nothing here, so they may change more than a photo's.
    config.augment.flip = 0.0
    config.augment.hue = 0.5
    config.augment.saturation = 0.4
    config.augment.greyscale = 0.3
    config.augment.blur = (0.5, 0.1)
    config.augment.solarize = (0.3, 0.5)

    config.model.backbone = "resnet10"
    config.model.width = 0.25
    config.model.stem = "small"
    config.model.hidden = 512
    config.model.projection = 64
    config.model.dtype = "float32"

    config.optimizer.lr = 0.4
    config.optimizer.warmup_epochs = 1.0
    config.ema.base = 0.97  # a short run cannot wait for a slow target
    return config
