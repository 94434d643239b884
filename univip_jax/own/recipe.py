"""What suits a number of photos: fields of configs/common.py, and the reason of each. Pure arithmetic.

docs/own-photos.md has the same as a table. The numbers are ours: ORL's recipe for COCO, scaled; measured where it says.
"""

import math
from typing import Any, NamedTuple

from univip_jax.common.errors import UserError

Fields = dict[str, Any]
COCO = 118_287  # photos, for which configs/common.py is made: 800 epochs
FEW = 1_000  # photos, below which a network learns them by heart
_TARGET_IMAGES = 51_200  # the target averages over so many in ORL's recipe: 512 / (1 - 0.99)
_TARGET_SHARE = 0.05  # of all images that a short run sees, at most
_BATCHES = ((2_000, 64), (20_000, 128), (100_000, 256))  # photos below which the batch is so large; 512 above
_SMALL_NET = 5_000  # photos, below which a ResNet-18 learns from zero
_LEAST_STEPS = 50
_CPU_SIDE = 64  # px of scenes on a CPU


class Recipe(NamedTuple):
    """Fields that do not depend on time or memory, the batch that is wanted, and the most epochs that pay."""

    fields: Fields
    batch_size: int
    most_epochs: int
    reasons: list[str]


def choose(
    num_photos: int,
    distinct: int,
    *,
    warm: Fields | None,
    backbone: str | None,
    scene_size: int,
    platform: str,
    num_devices: int,
) -> Recipe:
    """The recipe for so many photos.

    Args:
      distinct: how many are left of them without copies, by which it is chosen.
      warm: `model.*` fields of the weights that training starts from; None: from zero.
      backbone: asked for; None: chosen.
      scene_size: px; 0: chosen.
      platform: cpu, gpu or tpu.

    Raises UserError: there are too few photos for a batch on all devices, or `backbone` is not that of the weights.
    """
    least = max(2, num_devices)  # a batch
    if num_photos < least:
        raise UserError(
            f"there are {num_photos} photos, and {num_devices} devices need {least} at least: give more by --images"
        )
    on_cpu, reasons = platform == "cpu", []
    if warm is None:
        net = backbone or ("resnet18" if on_cpu or distinct < _SMALL_NET else "resnet50")
        model = {"model.backbone": net}
        chosen = "on a CPU" if on_cpu else f"for {'fewer' if distinct < _SMALL_NET else 'more'} than {_SMALL_NET:,}"
        reasons.append(f"{net} from zero" + (f", {chosen}" * (backbone is None)))
    else:
        if backbone and backbone != warm["model.backbone"]:
            raise UserError(f"--backbone={backbone}, but --init holds a {warm['model.backbone']}: leave --backbone out")
        model = warm
        reasons.append(f"{warm['model.backbone']} from weights: a quarter of the rate and of the epochs from zero")
    side = scene_size or (_CPU_SIDE if on_cpu else 224)
    instance = max(32, round(side * 96 / 224 / 32) * 32)
    reasons.append(f"scenes of {side} px, instances of {instance} px" + (", on a CPU" * (on_cpu and not scene_size)))
    wanted = next((batch for below, batch in _BATCHES if distinct < below), 512)
    batch = min(wanted, max(least, num_photos // 4)) // num_devices * num_devices
    fields = {
        **model,
        "model.dtype": "float32" if on_cpu else "bfloat16",
        "views.scene_size": side,
        "views.instance_size": instance,
    }
    most = min(4000, max(200, round(800 * (COCO / distinct) ** 0.5)))
    return Recipe(fields, batch, most if warm is None else most // 4, reasons)


def schedule(
    recipe: Recipe, num_photos: int, batch_size: int, seconds: float, step_seconds: float, hours: float
) -> Fields:
    """The length, and what follows from it: steps, rate, warm-up, EMA base, cadence.

    Args:
      num_photos: of the data set, copies among them.
      seconds: that training may take.
      step_seconds: measured.
      hours: that were asked for, of which `seconds` are left.

    Raises UserError: the time is enough for no training.
    """
    steps_per_epoch = max(1, num_photos // batch_size)
    possible = int(seconds / step_seconds)
    if possible < _LEAST_STEPS:
        enough = hours + 1.2 * (_LEAST_STEPS * step_seconds - seconds) / 3600
        raise UserError(
            f"{max(0.0, seconds) / 60:.1f} min are left for training, enough for {max(0, possible)} steps of "
            f"{step_seconds:.2g} s, and {_LEAST_STEPS} are the least: give --hours={math.ceil(100 * enough) / 100:g}, "
            "or smaller views as --scene_size=64"
        )
    steps = min(possible, recipe.most_epochs * steps_per_epoch)
    epochs, images = steps / steps_per_epoch, steps * batch_size
    averaged = min(_TARGET_IMAGES, _TARGET_SHARE * images)
    from_weights = "init" in recipe.fields
    return {
        "num_steps": steps,
        "optimizer.lr": 0.05 if from_weights else 0.2,
        "optimizer.warmup_epochs": round(min(4.0, 0.1 * epochs), 4),
        "ema.base": round(min(0.999, max(0.9, 1 - batch_size / averaged)), 4),
        "log_every_steps": min(50, max(1, steps // 40)),
        "checkpoint_every_steps": min(1000, max(10, steps // 8)),
    }
