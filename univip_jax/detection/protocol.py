"""Which of the paper's protocols a training follows, and where it departs from it."""

from dataclasses import fields
from typing import Any

from univip_jax.data.detection.canvas import InputSpec
from univip_jax.detection.schedule import BATCH, SCHEDULES, ScheduleSpec
from univip_jax.detection.spec import DetectorSpec

# ORL's and DenseCL's with batch norm in every part, and MoCo's with it in backbone and pyramid.
PROTOCOLS = {"4conv1fc": "mask_rcnn_fpn", "2fc": "mask_rcnn_fpn_moco"}
_FREE = ("box_head", "steps", "decay_at")


def schedule_of(schedule: ScheduleSpec) -> str:
    """`1x`, `2x` or `6x`, or the number of steps."""
    ours = schedule.steps, *schedule.decay_at
    return next((name for name, steps in SCHEDULES.items() if steps == ours), f"{schedule.steps} steps")


def protocol_of(
    detector: DetectorSpec, given: InputSpec, schedule: ScheduleSpec, *, backbone: tuple[str, float],
    batch_size: int, precise_bn: int,
) -> str:  # fmt: skip
    """The protocol's name, followed by what is changed: `mask_rcnn_fpn, changed: batch_size, input.max_side`."""
    changed = []
    for section, spec in (("detector", detector), ("input", given), ("schedule", schedule)):
        kind: Any = type(spec)
        usual = kind(steps=1, decay_at=()) if kind is ScheduleSpec else kind()
        names = [field.name for field in fields(kind) if field.name not in _FREE]
        changed += [f"{section}.{name}" for name in names if getattr(spec, name) != getattr(usual, name)]
    others = {
        "backbone": backbone != ("resnet50", 1.0), "batch_size": batch_size != BATCH, "precise_bn": precise_bn != 200,
    }  # fmt: skip
    changed += [name for name, differs in others.items() if differs]
    name = PROTOCOLS[detector.box_head]
    return f"{name}, changed: {', '.join(changed)}" if changed else name
