"""The shipped config, shrunk, and a small data set of painted scenes: what the end-to-end tests share."""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from configs import coco
from data_prep.inputs import Request
from data_prep.prepare import prepare
from data_prep.record import Settings
from univip_jax.plan import make_plan
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.run.folder import read_config
from univip_jax.sharding import make_mesh, replicated
from univip_jax.types import TrainState

BATCH = 8


def write_photos(folder: Path, count: int) -> None:
    """Photos of coloured rectangles on a gradient, of several sizes."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        height, width = rng.integers(96, 160, 2)
        canvas = np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)
        for _ in range(8):
            y, x = rng.integers(0, height - 40), rng.integers(0, width - 40)
            canvas[y : y + rng.integers(16, 40), x : x + rng.integers(16, 40)] = rng.integers(0, 255, 3)
        Image.fromarray(canvas).save(folder / f"{index:03d}.png")


def write_voc(root: Path, splits: dict[str, list[list[tuple[str, int]]]]) -> None:
    """Photos numbered through all splits, each with its objects: (`cat` or `dog`, whether it is difficult)."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    rng, number = np.random.default_rng(0), 0
    for split, photos in splits.items():
        names = []
        for objects in photos:
            names.append(f"{(number := number + 1):06d}")
            pixels = rng.integers(150, 250, (48, 64, 3), dtype=np.uint8)
            for name, _ in objects:
                half = pixels[:, slice(0, 32) if name == "cat" else slice(32, 64)]
                half -= half // 40
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{names[-1]}.jpg")
            annotated = "".join(
                f"<object><name>{name}</name><difficult>{difficult}</difficult><part><name>head</name></part></object>"
                for name, difficult in objects
            )
            (root / "Annotations" / f"{names[-1]}.xml").write_text(f"<annotation>{annotated}</annotation>")
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")


def prepare_photos(folder: Path, out: Path) -> Path:
    """Runs data preparation in this process."""
    settings = Settings("selective_search", search_max_side=0, min_side=16, max_boxes=100)
    prepare(Request(out, settings, [folder], num_workers=1))
    return out


def small_config(data: Path, row: str = "table7=e") -> ConfigDict:
    """configs/coco.py, small enough for a test."""
    config = coco.get_config(row)
    config.data.train = str(data)
    config.data.num_threads = 2
    config.batch_size = BATCH
    config.num_steps = 4
    config.log_every_steps = 1
    config.checkpoint_every_steps = 2
    config.views.scene_size = 32
    config.views.instance_size = 16
    config.views.min_box_side = 16
    config.model.backbone = "resnet10"
    config.model.width = 0.125
    config.model.stem = "small"
    config.model.hidden = 32
    config.model.projection = 16
    config.optimizer.warmup_epochs = 0.5
    return config


def long_config(data: Path) -> ConfigDict:
    """BYOL for longer than any test waits, with a checkpoint after every second step."""
    config = small_config(data, "table7=a")
    config.num_steps = 1000
    return config


def state_after(run: Path, step: int) -> TrainState:
    """The state in a checkpoint of a run on the 24 photos of the fixture `data`."""
    like = jax.eval_shape(make_plan(read_config(run), 24).init_state)
    with Checkpoints(run) as checkpoints:
        state, _ = checkpoints.restore(step, like, replicated(make_mesh()))
    return jax.device_get(state)


def assert_equal_states(one: Path, other: Path, step: int) -> None:
    """Bit for bit."""
    expected, found = state_after(one, step), state_after(other, step)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
