"""The settings of the two scenes and K instances of a photo; `crops` and `resample` carry them out."""

from dataclasses import dataclass

from univip_jax.common.errors import UserError

PROPOSALS = ("stored", "annotated", "naive")
PICKS = ("random", "first")
CROPS = ("torchvision", "uniform")
INTERPOLATIONS = ("bilinear", "bicubic")
MAX_ASPECT = 3.0  # of proposals and naive boxes: width / height within 1/3..3 (UniVIP section 3.2)
MAX_IOU = 0.5  # between two proposals of a photo, at most
MAX_CANVAS = 8192  # px
MAX_INSTANCES = 64  # more boxes with an IoU of at most 0.5 do not fit into a usual overlap


@dataclass(frozen=True)
class ViewSpec:
    """`config.views`: see configs/common.py for the meaning of each field."""

    scene_size: int
    instance_size: int
    num_instances: int
    overlap: bool
    min_proposals: int
    num_trials: int
    crop: str
    area: tuple[float, float]
    aspect: tuple[float, float]
    interpolation: str
    proposals: str
    pick: str
    min_box_side: int
    canvas: int

    def __post_init__(self):
        choices = {"proposals": PROPOSALS, "pick": PICKS, "crop": CROPS, "interpolation": INTERPOLATIONS}
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise UserError(
                    f"views.{field}={getattr(self, field)!r} is unknown; choose one of {', '.join(allowed)}"
                )
        for field in ("scene_size", "instance_size", "num_trials", "min_box_side"):
            if getattr(self, field) < 1:
                raise UserError(f"views.{field}={getattr(self, field)} must be at least 1")
        if not 0 <= self.num_instances <= MAX_INSTANCES:
            raise UserError(
                f"views.num_instances={self.num_instances}: an overlap has no room for so many distinct boxes; "
                f"choose 0..{MAX_INSTANCES} (the paper: 2, 4 or 8)"
            )
        if not 0 <= self.canvas <= MAX_CANVAS:
            raise UserError(f"views.canvas={self.canvas} must be 1..{MAX_CANVAS} px")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise UserError(f"views.area={self.area} must be two rising shares of the photo, above 0 and at most 1")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise UserError(f"views.aspect={self.aspect} must be two rising ratios above 0")
