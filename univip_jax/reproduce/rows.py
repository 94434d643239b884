"""The paper's numbers (UniVIP, CVPR 2022: Tables 1 to 8), and the config and evaluation of each row."""

import importlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from univip_jax.common.errors import UserError
from univip_jax.config import flatten

PHOTOS = {"coco": 118_287, "coco_plus": 241_690, "imagenet": 1_281_167}  # by config
RANDOM = "random"  # an untrained network
LAYERS = ("conv1", "res2", "res3", "res4", "res5")  # with a head each in ORL's protocol
Fields = tuple[tuple[str, float], ...]  # of a config, and their values


@dataclass(frozen=True)
class Evaluation:
    """How a row is evaluated."""

    protocol: str  # as results.json names it
    config: str  # of --config
    train: str  # of --config.data.train
    test: str
    expected: tuple[tuple[str, int | str], ...]  # what a result must have to compare with the paper
    scores: tuple[str, ...] = ("top1", "top5")  # those of `Row.paper`
    part: str = ""  # of protocols with several: `1pct` of the labels, or the schedule
    flags: tuple[str, ...] = ()  # more of them

    @property
    def name(self) -> str:
        """The protocol and its part."""
        return f"{self.protocol} {self.part}".strip()


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a table that this project can produce."""

    name: str
    config: str  # with its argument, as the field `row` of config.json has it; or RANDOM
    evaluations: tuple[Evaluation, ...]  # several where the paper names no protocol; each is printed and asked for
    paper: tuple[float, ...]  # percent: the first of the evaluation's scores, as many as the table has
    fields: Fields = ()  # that differ from the config's
    accepted: Fields = ()  # other values that count as the row's: the paper does not name the field
    best_layer: bool = False  # the result is the best head of `LAYERS`

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The flat config of the pre-training, without `row` but with the number of `photos`.

        Raises UserError if there is no `configs` to import.
        """
        if self.config == RANDOM:
            return {"model.backbone": "resnet50", "model.width": 1.0}
        data, _, arg = self.config.partition(":")
        try:
            config = importlib.import_module(f"configs.{data}").get_config(arg)
        except ModuleNotFoundError as error:
            raise UserError(f"configs/{data}.py is missing here: run this in the folder of main.py") from error
        config.update_from_flattened_dict(dict(self.fields))
        settings = flatten(config) | {"photos": PHOTOS[data]}
        del settings["row"]
        return settings


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    title: str
    rows: tuple[Row, ...]
    note: str = ""  # printed above the table


def _imagenet(
    protocol: str, config: str, epochs: int, *, part: str = "", train_photos: int = 1_281_167, pooling: str = ""
) -> Evaluation:
    """`pooling`: of the head that is the result, if it is linear."""
    expected = {"epochs": epochs, "image_size": 224, "classes": 1000} | ({"pooling": pooling} if pooling else {})
    expected |= {"train_photos": train_photos, "test_photos": 50_000}
    train = f"imagenet2012_subset/{part}:train" if part else "imagenet2012:train"
    flags = ("--config.data.subset=all",) if part else ()
    test = "imagenet2012:validation"
    return Evaluation(protocol, f"configs/{config}", train, test, tuple(expected.items()), part=part, flags=flags)


def _coco(protocol: str, schedule: str) -> Evaluation:
    """Mask R-CNN."""
    config = f"configs/detection.py:schedule={schedule}" + (f",protocol={protocol}" if protocol != _FPN else "")
    expected = (("train_photos", PHOTOS["coco"]), ("test_photos", 5_000), ("classes", 80))
    return Evaluation(protocol, config, "data/coco_train", "data/coco_val", expected, ("box", "mask"), schedule)


_ORL = (_imagenet("linear_orl", "linear.py:protocol=linear_orl", 28, pooling="res5"),)
_MOCO = (_imagenet("linear_moco", "linear.py:protocol=linear_moco", 100, pooling="gap"),)
_BYOL = (_imagenet("linear_byol", "linear.py:protocol=linear_byol", 80, pooling="gap"),)
_SEMI1 = (_imagenet("semi_orl", "semi.py:labels=1", 20, part="1pct", train_photos=12_811),)
_SEMI10 = (_imagenet("semi_orl", "semi.py:labels=10", 20, part="10pct", train_photos=128_116),)
_FPN = "mask_rcnn_fpn"
_DET1, _DET2, _DET6 = ((_coco(_FPN, schedule),) for schedule in ("1x", "2x", "6x"))
# Rows that the paper took from MoCo (its Tables 2 and 3 cite it): batch norm in backbone and pyramid, 2 fc.
_DET1_MOCO, _DET2_MOCO = ((_coco(f"{_FPN}_moco", schedule),) for schedule in ("1x", "2x"))
# The rate for 200 epochs: ORL's files for this batch have 0.3, for 200 and 300; BYOL's code has 0.45 for 40 and 100.
_200 = {"fields": (("num_epochs", 200.0),), "accepted": (("optimizer.lr", 0.45),)}
_NOTE1 = (
    "The paper's untrained 13.7 is the best of five layers (Goyal et al. 2019), and so is ours: an untrained ResNet-50 "
    "of OpenSelfSup has 11.4, 16.2, 13.5, 9.1 and 6.5 at conv1 to res5, and 4.4 by the global mean."
)
_NOTE7 = (
    "The paper gives no spread. The seed alone usually moves a linear probe by 0.2 to 0.3, so one run each can confirm "
    "d - b = 1.9 and e - a = 2.9, but not b - a = 0.4, c - b = 0.4 or e - d = 0.6. Of box AP, MoCo's authors call 0.3 "
    "usual between runs: one run each can confirm c - b = 0.8 and e - a = 1.3, not b - a = 0.1 or e - d = 0.3."
)
_NOTE2 = (
    "The paper's supervised network, which this project does not train, has {}. It and the random one are MoCo's, by "
    "another protocol than the other rows'."
)
_NOTE5 = (
    "The paper's supervised network, which this project does not train, has 38.9, 40.6 and 42.6. It and the random one "
    "are MoCo's at 1x and 2x, by another protocol than InfoMin's at 6x and the other rows'."
)


def _ablation(name: str, config: str, top1: float, box_ap: float) -> tuple[Row, Row]:
    """The two columns of Tables 7 and 8."""
    return Row(name, config, _ORL, (top1,)), Row(f"{name}, box AP", config, _DET1, (box_ap,))


TABLES = {
    1: Table(
        "Table 1: linear evaluation on ImageNet",
        (
            Row("untrained", RANDOM, _ORL, (13.7,), best_layer=True),
            Row("BYOL, COCO, 800 epochs", "coco:table7=a", _ORL + _MOCO, (57.8,)),
            Row("UniVIP, COCO, 800 epochs", "coco:", _ORL + _MOCO, (60.2,)),
            Row("BYOL, COCO+, 800 epochs", "coco_plus:table7=a", _ORL + _MOCO, (59.6,)),
            Row("UniVIP, COCO+, 800 epochs", "coco_plus:", _ORL + _MOCO, (63.0,)),
            Row("BYOL, ImageNet, 200 epochs", "imagenet:table7=a", _BYOL + _ORL, (70.6,), **_200),
            Row("UniVIP, ImageNet, 200 epochs", "imagenet:", _BYOL + _ORL, (73.1,), **_200),
            Row("UniVIP, ImageNet, 300 epochs", "imagenet:", _BYOL + _ORL, (74.2,)),
        ),
        _NOTE1,
    ),
    2: Table(
        "Table 2: detection and segmentation on COCO, 1x",
        (
            Row("random", RANDOM, _DET1_MOCO, (31.0, 28.5)),
            Row("BYOL, COCO, 800 epochs", "coco:table7=a", _DET1, (39.5, 35.6)),
            Row("UniVIP, COCO, 800 epochs", "coco:", _DET1, (40.8, 36.8)),
            Row("BYOL, COCO+, 800 epochs", "coco_plus:table7=a", _DET1, (40.0, 36.2)),
            Row("UniVIP, COCO+, 800 epochs", "coco_plus:", _DET1, (41.1, 37.1)),
            Row("BYOL, ImageNet, 200 epochs", "imagenet:table7=a", _DET1, (40.7, 36.9), **_200),
            Row("UniVIP, ImageNet, 200 epochs", "imagenet:", _DET1, (41.6, 37.6), **_200),
        ),
        _NOTE2.format("38.9 / 35.4"),
    ),
    3: Table(
        "Table 3: detection and segmentation on COCO, 2x",
        (
            Row("random", RANDOM, _DET2_MOCO, (36.7, 33.7)),
            Row("BYOL, COCO, 800 epochs", "coco:table7=a", _DET2, (40.8, 37.0)),
            Row("UniVIP, COCO, 800 epochs", "coco:", _DET2, (42.2, 38.2)),
            Row("BYOL, COCO+, 800 epochs", "coco_plus:table7=a", _DET2, (41.4, 37.4)),
            Row("UniVIP, COCO+, 800 epochs", "coco_plus:", _DET2, (42.8, 38.6)),
            Row("BYOL, ImageNet, 200 epochs", "imagenet:table7=a", _DET2, (42.2, 38.0), **_200),
            Row("UniVIP, ImageNet, 200 epochs", "imagenet:", _DET2, (43.1, 38.8), **_200),
        ),
        _NOTE2.format("40.6 / 36.8"),
    ),
    4: Table(
        "Table 4: detection and segmentation on COCO, 1x, beside other methods",
        (
            Row("random", RANDOM, _DET1_MOCO, (31.0, 28.5)),
            Row("BYOL, ImageNet, 300 epochs", "imagenet:table7=a", _DET1, (40.9, 37.0)),
            Row("UniVIP, COCO, 800 epochs", "coco:", _DET1, (40.8, 36.8)),
            Row("UniVIP, COCO+, 800 epochs", "coco_plus:", _DET1, (41.1, 37.1)),
            Row("UniVIP, ImageNet, 200 epochs", "imagenet:", _DET1, (41.6, 37.6), **_200),
            Row("UniVIP, ImageNet, 300 epochs", "imagenet:", _DET1, (42.2, 38.2)),
        ),
        _NOTE2.format("38.9 / 35.4"),
    ),
    5: Table(
        "Table 5: detection on COCO, 1x to 6x",
        (
            Row("random, 1x", RANDOM, _DET1_MOCO, (31.0,)),
            Row("random, 2x", RANDOM, _DET2_MOCO, (36.7,)),
            Row("random, 6x", RANDOM, _DET6, (42.7,)),
            Row("BYOL, ImageNet, 300 epochs, 1x", "imagenet:table7=a", _DET1, (40.9,)),
            Row("BYOL, ImageNet, 300 epochs, 2x", "imagenet:table7=a", _DET2, (42.3,)),
            Row("BYOL, ImageNet, 300 epochs, 6x", "imagenet:table7=a", _DET6, (42.6,)),
            Row("UniVIP, ImageNet, 300 epochs, 1x", "imagenet:", _DET1, (42.2,)),
            Row("UniVIP, ImageNet, 300 epochs, 2x", "imagenet:", _DET2, (43.5,)),
            Row("UniVIP, ImageNet, 300 epochs, 6x", "imagenet:", _DET6, (44.0,)),
        ),
        _NOTE5,
    ),
    6: Table(
        "Table 6: semi-supervised learning on ImageNet",
        (
            Row("untrained, 1 %", RANDOM, _SEMI1, (1.6, 5.0)),
            Row("BYOL, COCO, 800 epochs, 1 %", "coco:table7=a", _SEMI1, (28.4, 55.9)),
            Row("UniVIP, COCO, 800 epochs, 1 %", "coco:", _SEMI1, (31.6, 59.7)),
            Row("BYOL, COCO+, 800 epochs, 1 %", "coco_plus:table7=a", _SEMI1, (28.3, 56.0)),
            Row("UniVIP, COCO+, 800 epochs, 1 %", "coco_plus:", _SEMI1, (32.3, 60.9)),
            Row("BYOL, ImageNet, 200 epochs, 1 %", "imagenet:table7=a", _SEMI1, (51.5, 76.7), **_200),
            Row("UniVIP, ImageNet, 200 epochs, 1 %", "imagenet:", _SEMI1, (53.0, 78.8), **_200),
            Row("untrained, 10 %", RANDOM, _SEMI10, (21.8, 44.2)),
            Row("BYOL, COCO, 800 epochs, 10 %", "coco:table7=a", _SEMI10, (58.4, 82.7)),
            Row("UniVIP, COCO, 800 epochs, 10 %", "coco:", _SEMI10, (61.3, 85.6)),
            Row("BYOL, COCO+, 800 epochs, 10 %", "coco_plus:table7=a", _SEMI10, (59.4, 83.6)),
            Row("UniVIP, COCO+, 800 epochs, 10 %", "coco_plus:", _SEMI10, (61.7, 85.7)),
            Row("BYOL, ImageNet, 200 epochs, 10 %", "imagenet:table7=a", _SEMI10, (64.7, 86.6), **_200),
            Row("UniVIP, ImageNet, 200 epochs, 10 %", "imagenet:", _SEMI10, (67.1, 88.5), **_200),
        ),
    ),
    7: Table(
        "Table 7: effect of the levels, COCO",
        (
            *_ablation("(a) BYOL", "coco:table7=a", 57.3, 39.5),
            *_ablation("(b) scene", "coco:table7=b", 57.7, 39.6),
            *_ablation("(c) scene, scene-instance", "coco:table7=c", 58.1, 40.4),
            *_ablation("(d) scene, instance", "coco:table7=d", 59.6, 40.5),
            *_ablation("(e) all three", "coco:table7=e", 60.2, 40.8),
        ),
        _NOTE7,
    ),
    8: Table(
        "Table 8: ablations, COCO",
        (
            *_ablation("(a) scene similarity: no", "coco:table8=random_views", 59.3, 40.3),
            *_ablation("(a) scene similarity: yes", "coco:", 60.2, 40.8),
            *_ablation("(b) region candidates: none", "coco:table8=none", 57.7, 39.6),
            *_ablation("(b) region candidates: ground truth", "coco:table8=annotated", 58.5, 40.3),
            *_ablation("(b) region candidates: naive", "coco:table8=naive", 58.9, 40.5),
            *_ablation("(b) region candidates: selective search", "coco:table8=selective_search", 60.2, 40.8),
            *_ablation("(c) K = 0", "coco:table8=k0", 57.7, 39.6),
            *_ablation("(c) K = 2", "coco:table8=k2", 59.8, 40.4),
            *_ablation("(c) K = 4", "coco:table8=k4", 60.2, 40.8),
            *_ablation("(c) K = 8", "coco:table8=k8", 59.7, 40.6),
        ),
    ),
}
