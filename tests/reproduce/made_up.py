"""Made-up runs and results, and readers of the tables and commands that are printed for them."""

import json
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from univip_jax.config import to_spec
from univip_jax.data.detection.canvas import InputSpec
from univip_jax.detection.protocol import protocol_of, schedule_of
from univip_jax.detection.schedule import ScheduleSpec
from univip_jax.detection.spec import DetectorSpec
from univip_jax.run.folder import write_config

COCO_STEPS = 231 * 800  # 118,287 // 512 per epoch
DETECTION_SETTINGS = {"model.backbone": "resnet50", "model.width": 1.0}


def write_run(folder: Path, config, **fields) -> None:
    config.update_from_flattened_dict(fields)
    folder.mkdir(parents=True)
    write_config(folder, config)


def write_result(folder: Path, pretrained: str, top1: float, **fields) -> None:
    """By default linear_orl, on all of ImageNet, of the last step of 800 epochs of COCO."""
    values = {"protocol": "linear_orl", "top1": top1, "pretrained": pretrained, "step": COCO_STEPS, "image_size": 224}
    values |= {"chosen": {"pooling": "res5" if fields.get("protocol", "linear_orl") == "linear_orl" else "gap"}}
    values |= {"epochs": 28, "classes": 1000, "seed": 0, "train": {"images": 1_281_167}, "test": {"images": 50_000}}
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(values | fields))


def rows(text: str) -> dict[str, list[list[str]]]:
    """The cells of each row of a Markdown table, by the row's name."""
    found = {}
    for line in text.splitlines():
        if line.startswith("| "):
            name, *cells = (cell.strip() for cell in line.strip("| ").split(" | "))
            found.setdefault(name, []).append(cells)
    return found


def write_detection(folder: Path, pretrained: str, box: float, mask: float = 0.0, step: int = 10**9, **fields) -> None:
    """By default of 1x on COCO; without masks where there is no `mask`. A field that is None is left out."""
    values = {"protocol": "mask_rcnn_fpn", "schedule": "1x", "box": {"AP": box, "AP50": 60.0}}
    values |= {"pretrained": {"path": pretrained, "step": step, "sha256": "ab"}}
    values |= {"mask": {"AP": mask, "AP50": 50.0} if mask else None}
    values |= {"per_class": {"box": {f"class {number}": 0.0 for number in range(80)}}, "seed": 0}
    values |= {"train": {"photos": 118_287}, "evaluated_photos": 5_000, "settings": DETECTION_SETTINGS}
    folder.mkdir(parents=True)
    values = {name: value for name, value in (values | fields).items() if value is not None}
    (folder / "results.json").write_text(json.dumps(values))


def parse(words: list[str]):
    """The config of a command, as main.py parses it."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words[1:])
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    assert values(words[1:]) == ["main.py"]
    return values.config


def name_of(config) -> str:
    """What results.json will call the protocol and its part."""
    if config.task != "detection":
        return config.protocol if config.task == "linear" else f"semi_orl {config.labels}pct"
    kinds = {"detector": DetectorSpec, "input": InputSpec, "schedule": ScheduleSpec}
    specs = [to_spec(kind, config, section) for section, kind in kinds.items()]
    backbone = config.model.backbone, config.model.width
    protocol = protocol_of(*specs, backbone=backbone, batch_size=config.batch_size, precise_bn=config.precise_bn)
    return f"{protocol} {schedule_of(specs[-1])}"
