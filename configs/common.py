"""Every field of a pre-training run, once: meaning, unit, the paper's value. The other configs override.

Defaults are UniVIP on COCO (the paper's section 4, which follows ORL). *(ours)* marks what the paper leaves open.
"""

from ml_collections import ConfigDict

# The terms of Table 7: a is BYOL, b adds the overlap, c and d one instance term each, e is UniVIP.
TABLE7 = {
    "a": {"views.overlap": False, "loss.scene_instance": 0.0, "loss.instance": 0.0},
    "b": {"loss.scene_instance": 0.0, "loss.instance": 0.0},
    "c": {"loss.instance": 0.0},
    "d": {"loss.scene_instance": 0.0},
    "e": {},
}
TABLE8 = {
    "random_views": {"views.overlap": False},
    "none": TABLE7["b"],
    "annotated": {"views.proposals": "annotated"},
    "naive": {"views.proposals": "naive"},
    "selective_search": {},
    "k0": TABLE7["b"],
    "k2": {"views.num_instances": 2},
    "k4": {},
    "k8": {"views.num_instances": 8},
}


def get_config(arg: str = "") -> ConfigDict:
    """The COCO recipe; `arg` names rows of the paper's ablations, e.g. `table7=a` or `table8=k2`."""
    config = ConfigDict()
    config.task = "train"
    config.row = ""  # of the paper's tables, for univip_jax.reproduce; coco, coco_plus and imagenet set it
    config.init = ""  # a run's folder or a file of weights to start from; the optimizer and the schedule begin anew
    config.seed = 0  # of parameters, order, crops and augmentation
    config.batch_size = 512  # images per step, over all devices of all hosts
    config.num_epochs = 800.0  # an epoch is as many whole batches as the data set holds
    config.num_steps = 0  # above 0: the length of the run, instead of num_epochs
    config.log_every_steps = 50
    config.checkpoint_every_steps = 1000  # COCO: about every 4 epochs
    config.keep_checkpoints = 3  # the newest stay, and the best by `knn`
    config.keep_every_steps = 0  # checkpoints at multiples of it stay too; 0: none
    config.max_bad_steps = 10  # non-finite steps in a row that end the run; each of them is skipped
    config.stall_seconds = 600.0  # s without a step (and 10 x the median step) that end the process; 0: never
    config.allow_changes = ""  # comma-separated fields that may change when a run resumes

    config.data = ConfigDict()
    config.data.train = "data/coco"  # a folder made by `python -m data_prep --out`
    config.data.num_threads = 0  # that decode on this host; 0: one per core
    config.data.cache = ""  # a folder of this machine for shards of a data set in a bucket; empty: none
    config.data.cache_gb = 100.0  # GB that it may hold

    config.knn = ConfigDict()  # on a labelled set, during training
    config.knn.every_steps = 0  # 0: never, unless every_epochs is above 0
    config.knn.every_epochs = 0.0  # the same in epochs; give one of them
    config.knn.train = ""  # a folder with one folder per class, or NAME:SPLIT of TFDS
    config.knn.test = ""
    config.knn.k = 20  # neighbours
    config.knn.temperature = 0.07
    config.knn.batch_size = 256
    config.knn.probe = False  # also fit a logistic regression on these features: minutes, or hours on a large set

    config.views = ConfigDict()
    config.views.scene_size = 224  # px, side of a scene view
    config.views.instance_size = 96  # px, side of an instance
    config.views.num_instances = 4  # K
    config.views.overlap = True  # the two scenes must overlap, and the overlap must hold proposals (Algorithm 1)
    config.views.min_proposals = config.views.get_oneway_ref("num_instances")  # in the overlap, at least; K
    config.views.num_trials = 40  # pairs drawn before the best is taken (ours)
    config.views.crop = "torchvision"  # the first of ten draws that fits; uniform: the area is not changed by what fits
    config.views.area = (0.08, 1.0)  # of a scene crop: share of the photo
    config.views.aspect = (3 / 4, 4 / 3)  # width / height of a scene crop
    config.views.interpolation = "bilinear"  # or bicubic; both anti-aliased
    config.views.proposals = "stored"  # stored, annotated (the data set's objects) or naive (random boxes)
    config.views.pick = "random"  # random or first: which K of the overlap's proposals (ours)
    config.views.min_box_side = 64  # px of the photo: smallest side of a naive box
    config.views.canvas = 640  # px: the accelerator gets photos of this long side at most; larger ones are shrunk

    # Photometric augmentation. A pair is (scene 1 and instances, scene 2). BYOL's values, by ORL's operations.
    config.augment = ConfigDict()
    config.augment.flip = 0.5
    config.augment.jitter = 0.8  # probability of the four adjustments below
    config.augment.color = "torchvision"  # or byol: brightness is added, contrast by channel, saturation in HSV
    config.augment.brightness = 0.4  # factor U(0.6, 1.4)
    config.augment.contrast = 0.4  # factor U(0.6, 1.4) about the mean grey
    config.augment.saturation = 0.2  # factor U(0.8, 1.2) about each pixel's grey
    config.augment.hue = 0.1  # shift U(-0.1, 0.1) of the circle
    config.augment.greyscale = 0.2
    config.augment.blur = (1.0, 0.1)
    config.augment.blur_sigma = (0.1, 2.0)  # px
    config.augment.blur_kernel = "sigma"  # 3 of the largest sigma on each side; byol: a tenth of the image
    config.augment.solarize = (0.0, 0.2)  # at 128
    # Of an instance for the two networks: shared: one draw; independent: two; two_views: scene 1's for the online
    # network, scene 2's for the target (ours).
    config.augment.instances = "shared"

    config.model = ConfigDict()
    config.model.backbone = "resnet50"  # resnet18, 34, 50, 101, 152, 200; resnet10 for small images
    config.model.width = 1.0  # multiplies all channels of the backbone
    config.model.stem = "imagenet"  # imagenet: 7x7 and max pool; small, cifar: 3x3 of stride 2, 1
    config.model.zero_init_residual = False
    config.model.init = "fan_in"  # N(0, 2 / fan_in) everywhere (ORL); fan_out: of convolutions, LeCun's in heads
    config.model.hidden = 4096  # of projector and predictor
    config.model.projection = 256  # D
    config.model.predictors = "one"  # for scenes and instances; two: one each (ORL)
    config.model.running_stats = "scenes"  # passes that update batch norm's running statistics: scenes or all (ours)
    config.model.dtype = "bfloat16"  # of convolutions and linear layers; all else is float32

    config.loss = ConfigDict()  # weights; 0 switches a term off, and its compute
    config.loss.scene = 1.0
    config.loss.scene_instance = 1.0
    config.loss.instance = 1.0
    config.loss.scale = 2.0  # of their sum; 2: ORL's and BYOL's 2 - 2 cos, 1: Eq. 2 to the letter (ours)

    config.transport = ConfigDict()
    config.transport.epsilon = 0.1  # OTA's value (ours)
    config.transport.num_iters = 50  # OTA's value (ours)
    config.transport.plan = "sinkhorn"  # or diagonal, a control: each instance with itself alone
    config.transport.plan_mass = -1.0  # sum of a plan; -1: the sum of the supplies (OTA), 0: K (DeepEMD) (ours)
    config.transport.marginals = "affinity"  # Eq. 9-10, of l2-normalised features; or uniform, a control
    config.transport.marginal_floor = 0.05  # added to affinities (cosines) that must sum to a given mass (ours)
    config.transport.stop_gradient = True  # the plan is a constant, as in OTA; False: through the iterations (ours)

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # sgd or lars
    config.optimizer.lr = 0.2  # for a batch of 256; grows linearly with the batch
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4  # sgd: on all parameters; lars: on kernels
    config.optimizer.trust_coefficient = 1e-3  # lars
    config.optimizer.warmup_epochs = 4.0  # linear from 0; then a cosine to 0

    config.ema = ConfigDict()
    config.ema.base = 0.99  # momentum of the target at step 0; a cosine to 1 (Eq. 1)

    apply_rows(config, arg)
    return config


def apply_rows(config: ConfigDict, arg: str) -> None:
    """Applies rows of Tables 7 and 8, e.g. `table7=e` or `table8=naive`, to `config`; commas join several rows.

    Raises ValueError with a list of the rows.
    """
    tables = {"table7": TABLE7, "table8": TABLE8}
    for row in filter(None, arg.split(",")):
        table, _, name = row.partition("=")
        if name not in tables.get(table, {}):
            rows = [f"{table}={'|'.join(names)}" for table, names in tables.items()]
            raise ValueError(f"config argument {row!r} is unknown; choose from {' or '.join(rows)}")
        # Rows b, none and k0 crop no instances, but their overlap must hold as many proposals as row e's.
        config.update_from_flattened_dict(tables[table][name])
