"""Training a detector as the loop sees it."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole
from univip_jax.config import to_spec
from univip_jax.data.cache import with_cache
from univip_jax.data.detection.canvas import InputSpec, Size, canvas_of, canvases
from univip_jax.data.detection.index import CanvasIndex
from univip_jax.data.detection.pipeline import make_batches
from univip_jax.data.detection.sets import DetectionSet, open_set, require_equal_categories, require_masks
from univip_jax.data.pipeline import photo_ids
from univip_jax.detection.first_batch import draw_first_batch
from univip_jax.detection.schedule import ScheduleSpec, learning_rate, make_optimizer
from univip_jax.detection.spec import DetectorSpec
from univip_jax.detection.start import Start, open_start
from univip_jax.detection.step import Detector, train_step
from univip_jax.models.mask_rcnn import init
from univip_jax.run.cadence import Cadence
from univip_jax.run.checkpoint import FOLDER as CHECKPOINTS
from univip_jax.run.folder import check_config
from univip_jax.run.log import FIRST_BATCH
from univip_jax.run.setup import Run, Step
from univip_jax.run.staged import committed
from univip_jax.sharding import by_batch, local_rows, make_mesh, replicated, step_options
from univip_jax.types import DetectionBatch, DetectorState, Metrics

PRETRAINED = "pretrained.json"  # in a run's folder: the weights that it began with


@dataclass(frozen=True)
class DetectorRun(Run):
    """A run of Mask R-CNN."""

    photos: DetectionSet
    index: CanvasIndex
    input: InputSpec
    schedule: ScheduleSpec
    detector: Detector
    start: Start

    def init_state(self) -> DetectorState:
        """What is pre-trained, and all else from the seed."""
        variables = init(self.detector.net, jax.random.key(self.config.seed))
        params, stats = (variables[kind] | self.start.variables[kind] for kind in ("params", "batch_stats"))
        params, stats = jax.tree.map(lambda x: jnp.array(x, jnp.float32), (params, stats))
        zero = jnp.zeros((), jnp.int32)
        return DetectorState(zero, params, stats, self._optimizer.init(params), jnp.copy(zero))

    @cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.schedule, learning_rate(self.schedule, self.batch_size))

    def batches(self, start: int) -> Iterator[DetectionBatch]:
        """See `Run.batches`."""
        return self.span(start, self.total_steps)

    def span(self, start: int, stop: int) -> Iterator[DetectionBatch]:
        """This process's rows of the batches of steps `start` to `stop - 1`, which may lie beyond the run's end."""
        return make_batches(
            self.dataset,
            self.index,
            self.input,
            [category.id for category in self.photos.categories],
            masks=self.detector.net.masks,
            rows=self.rows,
            start=start,
            stop=stop,
            num_threads=self.config.data.num_threads,
        )

    def photo_ids(self, step: int) -> list[str]:
        """See `Run.photo_ids`."""
        return photo_ids(self.dataset, self.index.rows(step).photos)

    def compile(self, start: int) -> Step:
        """Says what will run, draws the first batch; one program a canvas, all before the first step."""
        if start == 0 and jax.process_index() == 0:
            path = self.folder / FIRST_BATCH
            draw_first_batch(next(self.span(0, 1)), self.photos.categories, path)
            print(f"picture of the first batch: {path}")
        self._describe(start)
        programs = self.programs

        def run_step(state: DetectorState, batch: DetectionBatch) -> tuple[DetectorState, dict[str, jax.Array]]:
            return programs[batch.images.shape[1:3]](state, batch)

        return run_step

    @cached_property
    def programs(self) -> dict[tuple[int, ...], jax.stages.Compiled]:
        """The step for each canvas. The state that it is given is lost."""
        everywhere, peak = replicated(self.mesh), 0.0
        optimizer, rate = self._optimizer, learning_rate(self.schedule, self.batch_size)

        def step(state: DetectorState, batch: DetectionBatch) -> tuple[DetectorState, Metrics]:
            new, metrics = train_step(state, batch, self.detector, optimizer, self.config.seed, self.mesh)
            return new, metrics | {"train/learning_rate": rate(state.step)}

        shardings = {"in_shardings": (everywhere, by_batch(self.mesh)), "out_shardings": (everywhere, everywhere)}
        jitted = jax.jit(
            step, donate_argnums=0, compiler_options=step_options(self.mesh.devices.flat[0].platform), **shardings
        )
        state, programs = jax.eval_shape(self.init_state), {}
        for place in self.index.canvases:
            canvas = canvases(self.input)[place]
            print(f"compiling the train step for {canvas.height} x {canvas.width} px ...", flush=True)
            program = jitted.lower(state, self.batch_shapes(canvas)).compile()
            if memory := program.memory_analysis():  # not every platform knows
                held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
                peak = max(peak, (memory.temp_size_in_bytes + held) / 2**30)
            programs[tuple(canvas)] = program
        if peak:
            print(f"memory    {peak:.2f} GiB on each device", flush=True)
        return programs

    def batch_shapes(self, canvas: Size) -> DetectionBatch:
        """Shapes and dtypes of a global batch on a canvas."""
        rows, objects, cells = self.batch_size, self.input.max_objects, self.input.mask_cells
        bits, shape = (cells, cells // 8) if self.detector.net.masks else (0, 0), jax.ShapeDtypeStruct
        return DetectionBatch(
            images=shape((rows, *canvas, 3), jnp.uint8),
            sizes=shape((rows, 2), jnp.float32),
            boxes=shape((rows, objects, 4), jnp.float32),
            classes=shape((rows, objects), jnp.int32),
            masks=shape((rows, objects, *bits), jnp.uint8),
            exists=shape((rows, objects), bool),
            photos=shape((rows,), jax.dtypes.canonicalize_dtype(jnp.int64)),
        )

    def _describe(self, start: int) -> None:
        device, net, root = self.mesh.devices.flat[0], self.detector.net, self.dataset.root
        parameters = sum(x.size for x in jax.tree.leaves(jax.eval_shape(self.init_state).params)) / 1e6
        kind = "Mask R-CNN" if net.masks else "Faster R-CNN"
        print(
            f"data      {self.dataset.num_records} photos in {root}, {self.photos.num_objects.sum()} objects "
            f"of {len(self.photos.categories)} classes\n"
            f"network   {kind}, {net.backbone.variant}, {parameters:.1f} M parameters; from {self.start.described}\n"
            f"run       steps {start} to {self.total_steps}, {self.steps_per_epoch} per epoch, "
            f"{self.batch_size} photos a step\n"
            f"devices   {self.mesh.size} x {device.device_kind} in {jax.process_count()} processes",
            flush=True,
        )
        for line in self._warnings():
            print(f"warning   {line}", flush=True)
        sys.stdout.flush()

    def left_out(self) -> dict[str, int]:
        """What in the set does not teach the detector, by kind."""
        objects = self.photos.num_objects
        counts = {
            "empty_photos": 0 if self.input.keep_empty else (objects == 0).sum(),
            "crowds": self.photos.num_crowds.sum(),
            "objects_beyond_max_objects": (objects - self.input.max_objects).clip(min=0).sum(),
            "masks_of_objects_without_outline": (objects - self.photos.num_masks).sum()
            if self.detector.net.masks
            else 0,
        }
        return {kind: int(count) for kind, count in counts.items() if count}

    def _warnings(self) -> list[str]:
        left_out = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in self.left_out().items())
        lines = [f"left out: {left_out}"] if left_out else []
        if side := self.dataset.manifest["settings"].get("max_side"):
            lines.append(f"photos were shrunk to {side} px when prepared, which costs AP: prepare without --max_side")
        return lines


def open_run(config: ConfigDict, folder: Path, test: DetectionSet | None = None) -> DetectorRun:
    """Opens data and weights; raises UserError for what cannot be, before anything is written.

    `test`: on which it will be judged.
    """
    if not config.data.train:
        raise UserError("data.train is not set: --config.data.train=DIR names a set made by python -m data_prep")
    photos, mesh = open_set(config.data.train), make_mesh()
    photos = photos._replace(dataset=with_cache(photos.dataset, config.data))
    detector_spec, input_spec = to_spec(DetectorSpec, config, "detector"), to_spec(InputSpec, config, "input")
    schedule = to_spec(ScheduleSpec, config, "schedule")
    if test:
        require_equal_categories(photos.categories, test)
    if detector_spec.masks:
        require_masks(photos)
    rows = local_rows(mesh, config.batch_size)
    used = np.arange(len(photos.sizes)) if input_spec.keep_empty else np.flatnonzero(photos.num_objects)
    if len(used) < config.batch_size:
        most = len(used) // mesh.size * mesh.size
        or_lower = f", or lower it: --config.batch_size={most}" if most else ""
        raise UserError(
            f"{photos.dataset.root} holds {len(used)} photos{'' if input_spec.keep_empty else ' with objects'}, less "
            f"than one batch of batch_size={config.batch_size}: add photos{or_lower}"
        )
    index = CanvasIndex(canvas_of(photos.sizes[used], input_spec), used, config.seed, config.batch_size)
    start = open_start(config, photos.categories, detector_spec)
    total = schedule.scaled(schedule.steps, config.batch_size)
    cadence = Cadence(config.log_every_steps, config.checkpoint_every_steps, 0, total)
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        check_config(folder, config)
        start = start._replace(source=_recorded(folder, start.source))
    return DetectorRun(
        config, folder, photos.dataset, mesh, rows, cadence, None, config.batch_size, index.steps_per_epoch, total,
        photos, index, input_spec, schedule, Detector(start.net, detector_spec), start,
    )  # fmt: skip


def _recorded(folder: Path, source: dict[str, Any]) -> dict[str, Any]:
    """The weights that the run began with: those of now, unless it has checkpoints. Weights may change meanwhile."""
    path = folder / PRETRAINED
    if committed(folder / CHECKPOINTS) and path.is_file():
        return json.loads(path.read_text())
    write_whole(path, json.dumps(source) + "\n")
    return source
