"""The paper's numbers (UniVIP, CVPR 2022: Tables 1, 6, 7 and 8) and the command that pre-trains each row."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from absl import flags
from ml_collections import config_flags

from univip_jax.common.errors import UserError
from univip_jax.config import flatten

PHOTOS = {"coco": 118_287, "coco_plus": 241_690, "imagenet": 1_281_167}  # by config


@dataclass(frozen=True)
class Evaluation:
    """How a row is evaluated on ImageNet."""

    protocol: str  # as results.json names it
    config: str  # of --config
    epochs: int
    train: str = "imagenet2012:train"  # of --config.data.train
    train_photos: int = PHOTOS["imagenet"]
    labels: int | None = None  # percent, if only a part is labelled

    @property
    def flags(self) -> list[str]:
        """The flags of main.py, without --config.pretrained and --workdir."""
        data = [f"--config.data.train={self.train}", "--config.data.test=imagenet2012:validation"]
        return [f"--config={self.config}", *data, *(["--config.data.subset=all"] if self.labels else [])]

    @property
    def settings(self) -> dict[str, int]:
        """What a result must have to compare with the paper."""
        values = {"epochs": self.epochs, "image_size": 224, "classes": 1000}
        values |= {"train_photos": self.train_photos, "test_photos": 50_000}
        return {f"evaluation.{name}": value for name, value in values.items()}


_ORL = Evaluation("linear_orl", "configs/linear.py:protocol=linear_orl", 28)
_BYOL = Evaluation("linear_byol", "configs/linear.py:protocol=linear_byol", 80)
_SEMI = {
    labels: Evaluation(
        "semi_orl", f"configs/semi.py:labels={labels}", 20, f"imagenet2012_subset/{labels}pct:train", photos, labels
    )
    for labels, photos in ((1, 12_811), (10, 128_116))
}


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a table that this project can produce."""

    name: str
    paper: dict[str, float]  # percent, by the fields of results.json
    evaluation: Evaluation
    data: str = "coco"  # the config of this name; empty: an untrained network
    arg: str = ""  # of the config, e.g. table7=a
    fields: tuple[tuple[str, Any], ...] = ()  # that differ from the config's
    box_ap: float | None = None  # where the table has it; by Mask R-CNN in Detectron2, not by us

    @property
    def recipe(self) -> str:
        """The field `row` of its config."""
        return f"{self.data}:{self.arg}"

    @property
    def flags(self) -> list[str]:
        """The flags of main.py for this pre-training, without --workdir."""
        config = f"--config=configs/{self.data}.py:{self.arg}".removesuffix(":")
        return [config, *(f"--config.{name}={value}" for name, value in self.fields)]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The flat config that these flags give, without `row` but with the number of `photos`.

        Raises UserError if the working directory has no `configs`.
        """
        if not self.data:
            return {"model.backbone": "resnet50", "model.width": 1.0}
        values, words = flags.FlagValues(), ["main.py", *self.flags]
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
        try:
            values(words)
            settings = flatten(values.config) | {"photos": PHOTOS[self.data]}
        except OSError as error:
            raise UserError(f"configs/{self.data}.py is missing here: run this in the folder of main.py") from error
        return {name: value for name, value in settings.items() if name != "row"}


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    title: str
    rows: tuple[Row, ...]
    note: str


_200 = (("num_epochs", 200.0), ("optimizer.lr", 0.45))
_PRETRAININGS = (
    Row("untrained", {}, _ORL, data=""),
    Row("BYOL, COCO, 800 epochs", {}, _ORL, arg="table7=a"),
    Row("UniVIP, COCO, 800 epochs", {}, _ORL),
    Row("BYOL, COCO+, 800 epochs", {}, _ORL, "coco_plus", "table7=a"),
    Row("UniVIP, COCO+, 800 epochs", {}, _ORL, "coco_plus"),
    Row("BYOL, ImageNet, 200 epochs", {}, _BYOL, "imagenet", "table7=a", _200),
    Row("UniVIP, ImageNet, 200 epochs", {}, _BYOL, "imagenet", fields=_200),
    Row("UniVIP, ImageNet, 300 epochs", {}, _BYOL, "imagenet"),
)
_TABLE1 = (13.7, 57.8, 60.2, 59.6, 63.0, 70.6, 73.1, 74.2)
_TABLE6 = {  # top-1 and top-5 of the pre-trainings above, without the last
    1: ((1.6, 5.0), (28.4, 55.9), (31.6, 59.7), (28.3, 56.0), (32.3, 60.9), (51.5, 76.7), (53.0, 78.8)),
    10: ((21.8, 44.2), (58.4, 82.7), (61.3, 85.6), (59.4, 83.6), (61.7, 85.7), (64.7, 86.6), (67.1, 88.5)),
}
_TABLE7 = {
    "a": ("(a) BYOL", 57.3, 39.5),
    "b": ("(b) scene", 57.7, 39.6),
    "c": ("(c) scene, scene-instance", 58.1, 40.4),
    "d": ("(d) scene, instance", 59.6, 40.5),
    "e": ("(e) all three", 60.2, 40.8),
}
_TABLE8 = {
    "random_views": ("(a) scene similarity: no", 59.3, 40.3),
    "": ("(a) scene similarity: yes", 60.2, 40.8),
    "none": ("(b) region candidates: none", 57.7, 39.6),
    "annotated": ("(b) region candidates: ground truth", 58.5, 40.3),
    "naive": ("(b) region candidates: naive", 58.9, 40.5),
    "selective_search": ("(b) region candidates: selective search", 60.2, 40.8),
    "k0": ("(c) K = 0", 57.7, 39.6),
    "k2": ("(c) K = 2", 59.8, 40.4),
    "k4": ("(c) K = 4", 60.2, 40.8),
    "k8": ("(c) K = 8", 59.7, 40.6),
}


def _semi(labels: int) -> list[Row]:
    return [
        replace(row, name=f"{row.name}, {labels} %", paper={"top1": top1, "top5": top5}, evaluation=_SEMI[labels])
        for row, (top1, top5) in zip(_PRETRAININGS[:-1], _TABLE6[labels], strict=True)
    ]


def _ablation(table: str, rows: dict[str, tuple[str, float, float]]) -> tuple[Row, ...]:
    return tuple(
        Row(name, {"top1": top1}, _ORL, arg=f"{table}={arg}" if arg else "", box_ap=box_ap)
        for arg, (name, top1, box_ap) in rows.items()
    )


_PROTOCOLS = (
    "The paper names no protocol for its linear evaluation. Its COCO settings follow ORL, so COCO rows are compared "
    "with `linear_orl`; its ImageNet settings follow BYOL, so ImageNet rows are compared with `linear_byol`."
)
_DETECTION = "Box AP is the paper's (Mask R-CNN R50-FPN 1x); for yours, use Detectron2 as in docs/export.md."
TABLES = {
    1: Table(
        "Table 1: linear evaluation on ImageNet",
        tuple(replace(row, paper={"top1": top1}) for row, top1 in zip(_PRETRAININGS, _TABLE1, strict=True)),
        f"{_PROTOCOLS} BYOL on COCO is 57.8 here; Table 7 has 57.3, where the authors trained it themselves.",
    ),
    6: Table(
        "Table 6: semi-supervised learning on ImageNet",
        (*_semi(1), *_semi(10)),
        "`semi_orl`: all weights fine-tuned on SimCLR's subsets; top-1 / top-5.",
    ),
    7: Table("Table 7: effect of the levels, COCO", _ablation("table7", _TABLE7), f"{_PROTOCOLS} {_DETECTION}"),
    8: Table("Table 8: ablations, COCO", _ablation("table8", _TABLE8), f"{_PROTOCOLS} {_DETECTION}"),
}
