"""The cut of the views on this device: ms an image, and whether its pixels are the CPU's bit for bit. Random photos.

    python -m benchmarks.step.cut --json=FILE                      # 256 photos on canvases of 640 px, 2 x 224 + 4 x 96

Exit code 1 if, from the same boxes, a pixel differs. The boxes, of logarithms and roots, may differ by a rounding.
"""

import json
from pathlib import Path

import jax
import numpy as np
from absl import flags

from benchmarks.step.__main__ import FIELDS, define_fields
from benchmarks.step.program import Program
from benchmarks.step.worker import seconds_per_call
from univip_jax.common.cli import define_path
from univip_jax.common.cli import run as run_command
from univip_jax.common.files import write_whole
from univip_jax.config import to_spec
from univip_jax.cut import compile_cut, shapes_of
from univip_jax.resample import crop
from univip_jax.sharding import make_mesh, put_batch
from univip_jax.types import Batch, Geometry, Photos
from univip_jax.views import ViewSpec

NAME = "benchmarks.step.cut"
_COMPARED, _PROPOSALS = 16, 32  # photos compared with the CPU's; proposals a photo


def _define_flags() -> None:
    define_fields()
    flags.DEFINE_integer("batch", 256, "Photos per call.", 1)
    flags.DEFINE_integer("canvas", 640, "config.views.canvas.", 1)
    define_path("json", None, "File for the figures.")


def random_photos(count: int, side: int) -> Photos:
    """Photos of `side` x `side` px at most, each with proposals of all sizes."""
    rng = np.random.default_rng(0)
    extent = rng.integers(-(-side // 2), side + 1, (count, 2), np.int32)
    corners = np.sort(rng.uniform(size=(count, _PROPOSALS, 2, 2)).astype(np.float32), axis=2)
    draw = np.stack([np.zeros(count, np.int32), np.arange(count, dtype=np.int32)], 1)
    pixels = rng.integers(0, 256, (count, side, 3 * side), np.uint8)
    return Photos(pixels, extent, extent, corners.reshape(count, _PROPOSALS, 4), draw)


def crops_of(photos: Photos, boxes: Geometry, spec: ViewSpec, device: jax.Device) -> Batch:
    """The crops of given boxes, made by `device`."""

    def one(photo: Photos, boxes: Geometry) -> Batch:
        groups = [(boxes.scenes, spec.scene_size), (boxes.instances, spec.instance_size)]
        return Batch(*crop(photo.pixels, photo.extent, groups, spec.interpolation))

    return jax.device_get(jax.jit(jax.vmap(one))(*jax.device_put((photos, boxes), device)))


def differing(first: tuple[np.ndarray, ...], second: tuple[np.ndarray, ...]) -> int:
    """How many photos differ in any value of any array."""
    pairs = zip(first, second, strict=True)
    return int(np.any([(a != b).reshape(len(a), -1).any(1) for a, b in pairs], axis=0).sum())


def _work() -> int:
    fields = tuple((field, flags.FLAGS[name].value) for name, field in FIELDS.items())
    config = Program("jax", "univip", flags.FLAGS.batch, "", fields).config()
    config.views.canvas = flags.FLAGS.canvas
    spec, device, cpu = to_spec(ViewSpec, config, "views"), jax.devices()[0], jax.devices("cpu")[0]
    mesh, photos = make_mesh([device]), random_photos(flags.FLAGS.batch, spec.canvas)
    few = Photos(*(x[:_COMPARED] for x in photos))
    views, boxes = jax.device_get(compile_cut(spec, config.seed, shapes_of(few), make_mesh([cpu]))(few))
    _, boxes_here = jax.device_get(compile_cut(spec, config.seed, shapes_of(few), mesh)(few))
    on_device, cut, last = put_batch(mesh, photos), compile_cut(spec, config.seed, shapes_of(photos), mesh), []

    def call() -> None:
        last[:] = [cut(on_device)]

    seconds_per_call(call, lambda: jax.block_until_ready(last), 1)
    found = {
        "device": device.device_kind,
        "ms_per_image": 1000 * seconds_per_call(call, lambda: jax.block_until_ready(last), 10) / len(photos.pixels),
        "compared": len(few.pixels),
        "crops_differ": differing(views, crops_of(few, boxes, spec, device)),
        "boxes_differ": differing(boxes, boxes_here),
    }
    print(json.dumps(found))
    write_whole(Path(flags.FLAGS.json), json.dumps(found) + "\n")
    return int(found["crops_differ"] > 0)


if __name__ == "__main__":
    run_command(NAME, _define_flags, ("json",), _work, interrupted="run it again")
