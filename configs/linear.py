"""Linear probe on the frozen features of a run, by the protocol that the argument names.

    python main.py --config=configs/linear.py:protocol=linear_orl --config.pretrained=runs/coco \\
        --workdir=runs/coco_linear --config.data.train=imagenet2012:train --config.data.test=imagenet2012:validation

`linear_orl` is the protocol of Table 1 on COCO; `linear_byol` and `linear_moco` are the protocols of BYOL and MoCo.
`logistic` is scikit-learn's logistic regression, which the paper does not use. The paper's numbers: 60.2 (COCO), 63.0
(COCO+), 73.1 and 74.2 (ImageNet, 200 and 300 epochs).

Cost: `num_epochs` forward passes of the training set for any size of the grid, and as many again where the chosen
point is trained anew (`retrain`). `logistic` takes one pass, which is cached in the workdir.
`--config.pretrained=random` is the baseline. Several rates or decays make a grid: --config.lr=0.1,0.01. Several
poolings make none, each has its head in the results: "--config.pooling=('res5','gap')".
"""

from ml_collections import ConfigDict

from configs.evaluation import shared_fields

PROTOCOLS = {
    "linear_orl": {
        "pooling": ("res5", "conv1", "res2", "res3", "res4", "gap"),
        "batch_norm": True,
        "lr": (0.01,),
        "weight_decay": (1e-4,),
        "nesterov": True,
        "num_epochs": 28,
        "milestones": (8, 16, 24),
        "color_jitter": 0.4,
        "lighting": 0.1,
    },
    "linear_moco": {"lr": (30.0,), "num_epochs": 100, "milestones": (60, 80)},
    "linear_byol": {
        "lr": (0.4, 0.3, 0.2, 0.1, 0.05),
        "nesterov": True,
        "batch_size": 1024,
        "num_epochs": 80,
        "schedule": "cosine",
    },
    "logistic": {},
}


def get_config(arg: str = "protocol=linear_moco") -> ConfigDict:
    """The protocol that `arg` names; raises ValueError that lists them."""
    name = arg.removeprefix("protocol=")
    if f"protocol={name}" != arg or name not in PROTOCOLS:
        raise ValueError(f"config argument {arg!r} is unknown; choose protocol={'|'.join(PROTOCOLS)}")
    config = shared_fields("linear")
    config.protocol = name  # set by the argument alone
    # Training photos held out to choose from a grid of several points. 0: 10,009, as BYOL on ImageNet; or a tenth of
    # the photos if that is less, but at least 5 per class (ours).
    config.held_out = 0
    config.retrain = True  # train the chosen point again on all training photos, as BYOL; False: report it as it is
    if name == "logistic":
        config.inverse_l2 = (1.0,)  # scikit-learn's C, and its default
        return config

    config.num_epochs = 0
    config.checkpoint_every_epochs = 1  # an interrupted probe resumes from there
    # One head for each, on one pass: gap is the mean of res5; conv1, res2, res3, res4 and res5 are ORL's pools of a
    # layer's map, 8192 or 9216 features of a ResNet-50. The first is `top1` of results.json; `heads` has all.
    config.pooling = ("gap",)
    config.batch_norm = False  # over the channels, without scale and shift, before the linear layer
    config.lr = (0.0,)  # for a batch of 256; grows linearly with the batch
    config.schedule = "milestones"  # or cosine, to 0
    config.milestones = ()  # epochs, x0.1 at each
    config.momentum = 0.9
    config.nesterov = False
    config.weight_decay = (0.0,)  # of kernel and bias
    config.color_jitter = 0.0  # brightness, contrast and saturation by a factor U(1 - s, 1 + s), as torchvision
    config.lighting = 0.0  # std of AlexNet's shift along the principal components of ImageNet's colours
    config.update(PROTOCOLS[name])
    return config
