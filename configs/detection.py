"""Mask R-CNN with a feature pyramid, fine-tuned from pre-trained weights: Tables 2 to 5 of the paper.

    python main.py --config=configs/detection.py:schedule=1x --config.pretrained=runs/coco \\
        --config.data.train=data/coco_train --config.data.test=data/coco_val --workdir=runs/coco_det

The sets are made by `python -m data_prep --annotations=instances.json`, any json in COCO's format. The argument names
the schedule (1x, 2x, 6x, small; `evaluate` judges a trained detector), and the protocol where it is not the first:
`schedule=1x,protocol=mask_rcnn_fpn_moco`. Cost of 1x: 1.44 million photos; of 2x twice, of 6x six times as many.

The paper's box / mask AP, 1x (Table 2): random 31.0 / 28.5, supervised 38.9 / 35.4, BYOL on COCO 39.5 / 35.6, UniVIP on
COCO 40.8 / 36.8, COCO+ 41.1 / 37.1, ImageNet 41.6 / 37.6 (200 epochs), 42.2 / 38.2 (300, Table 4). 2x (Table 3): 36.7 /
33.7, 40.6 / 36.8, 40.8 / 37.0, 42.2 / 38.2, 42.8 / 38.6, 43.1 / 38.8. Box AP 1x, 2x, 6x (Table 5): random 31.0, 36.7,
42.7; supervised 38.9, 40.6, 42.6; UniVIP on ImageNet 42.2, 43.5, 44.0.
"""

from ml_collections import ConfigDict

from configs import common

# Steps at a batch of 16, and those at which the rate falls to a tenth (Detectron2).
SCHEDULES = {
    "1x": (90_000, (60_000, 80_000)),
    "2x": (180_000, (120_000, 160_000)),
    "6x": (540_000, (480_000, 520_000)),
    "small": (600, (525, 575)),
    "evaluate": (0, ()),
}
# mask_rcnn_fpn: ORL's and DenseCL's, batch norm in every part; mask_rcnn_fpn_moco: MoCo's, in backbone and pyramid.
PROTOCOLS = {"mask_rcnn_fpn": "4conv1fc", "mask_rcnn_fpn_moco": "2fc"}


def get_config(arg: str = "schedule=1x") -> ConfigDict:
    """The schedule and protocol that `arg` names; raises ValueError that lists them."""
    given = {"schedule": "1x", "protocol": "mask_rcnn_fpn"}
    for part in filter(None, arg.split(",")):
        name, _, value = part.partition("=")
        if value not in {"schedule": SCHEDULES, "protocol": PROTOCOLS}.get(name, ()):
            raise ValueError(
                f"config argument {part!r} is unknown; choose schedule={'|'.join(SCHEDULES)} or "
                f"protocol={'|'.join(PROTOCOLS)}"
            )
        given[name] = value
    config = _shared(given["protocol"])
    config.schedule.steps, config.schedule.decay_at = SCHEDULES[given["schedule"]]
    if given["schedule"] == "small":
        _shrink(config)
    return config


def _shared(protocol: str) -> ConfigDict:
    """Every field; defaults are Detectron2's with those of the protocol."""
    config = ConfigDict()
    config.task = "detection"
    # A run's folder, a file of weights, or `random`. Of a detector, all parts are taken.
    config.pretrained = ""
    config.step = 0  # of the run's checkpoint; 0: the newest
    config.seed = 0  # of parameters, order, sizes, flips and samples
    config.batch_size = 16  # photos per step, over all devices of all hosts; rate and steps follow it
    config.log_every_steps = 50
    config.checkpoint_every_steps = 1000
    config.keep_checkpoints = 2
    config.keep_every_steps = 0  # checkpoints at multiples of it stay too; 0: none
    config.max_bad_steps = 10  # non-finite steps in a row that end the run; each of them is skipped
    config.stall_seconds = 600.0  # s without a step (and 10 x the median step) that end the process; 0: never
    config.allow_changes = ""  # comma-separated fields that may change when a run resumes
    config.precise_bn = 200  # batches whose mean statistics batch norm uses at the end; 0: running statistics
    config.dtype = "bfloat16"  # of convolutions and linear layers; all else is float32
    config.model = common.get_config().model  # the backbone where pretrained=random

    config.data = ConfigDict()
    config.data.train = ""  # a folder made by `python -m data_prep --annotations`
    config.data.test = ""  # likewise; empty: train only
    config.data.num_threads = 0  # that decode and resize on this host; 0: one per core
    config.data.cache = ""  # a folder of this machine for shards of a data set in a bucket; empty: none
    config.data.cache_gb = 100.0  # GB that it may hold

    config.test = ConfigDict()
    config.test.num_photos = 0  # the first of data.test; 0: all
    config.test.batch_size = 16  # photos at once

    config.schedule = ConfigDict()  # for a batch of 16: lr grows with the batch, steps shrink
    config.schedule.steps = 0
    config.schedule.decay_at = ()
    config.schedule.lr = 0.02
    config.schedule.warmup_steps = 1000  # linear from a thousandth of lr
    config.schedule.momentum = 0.9
    config.schedule.weight_decay = 1e-4  # of weights and biases; norms have none

    config.input = ConfigDict()
    config.input.short_sides = (640, 672, 704, 736, 768, 800)  # px, one is drawn for each photo
    config.input.test_short_side = 800  # px
    config.input.max_side = 1333  # px
    config.input.canvases = ((800, 1088), (800, 1344))  # px, each lying and standing: four compiled programs
    config.input.max_objects = 100  # of a photo; of more, the largest
    config.input.mask_cells = 112  # side of a mask over its box
    config.input.flip = True
    config.input.keep_empty = False  # photos without objects are background

    config.detector = ConfigDict()
    config.detector.channels = 256  # of the pyramid and the heads
    config.detector.head_width = 1024  # of the fully connected layers
    config.detector.box_head = PROTOCOLS[protocol]  # 2fc has no norm, and then the mask head has none either
    config.detector.norm = True  # batch norm over all devices in the pyramid
    config.detector.masks = True  # False: Faster R-CNN, for sets with boxes alone
    config.detector.rpn_candidates = (2000, 1000)  # anchors of a level that go into suppression, in training, at test
    config.detector.proposals = 1000  # of a photo
    config.detector.rpn_nms = 0.7  # IoU
    config.detector.rpn_match = (0.3, 0.7)  # IoU: negative below, positive from
    config.detector.rpn_samples = 256  # anchors of a photo that are learnt from
    config.detector.rpn_positive = 128
    config.detector.box_match = 0.5  # IoU
    config.detector.box_samples = 512  # proposals of a photo that are learnt from
    config.detector.box_positive = 128
    config.detector.box_bins = 7
    config.detector.mask_bins = 14
    config.detector.score_threshold = 0.05
    config.detector.test_candidates = 2000  # pairs of region and class that go into suppression
    config.detector.test_nms = 0.5  # IoU
    config.detector.detections = 100  # of a photo
    return config


def _shrink(config: ConfigDict) -> None:
    """A small network on small photos, which learns some 25 of them by heart on two cores."""
    config.pretrained = "random"
    config.model.backbone, config.model.width = "resnet10", 0.5
    config.dtype = "float32"
    config.batch_size = config.test.batch_size = 8
    config.precise_bn = 20
    config.checkpoint_every_steps = 200
    config.schedule.lr, config.schedule.warmup_steps = 0.1, 50
    config.input.update(
        short_sides=(192,), test_short_side=192, max_side=256, canvases=((192, 256),), max_objects=30, flip=False
    )
    config.detector.update(
        channels=48, head_width=256, rpn_candidates=(200, 200), proposals=100, rpn_samples=64, rpn_positive=32,
        box_samples=48, box_positive=24, test_candidates=500,
    )  # fmt: skip
