"""A run before its first step: opened, checked, restored and compiled."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.data.index import Index
from univip_jax.data.pipeline import Preview, make_batches, preview
from univip_jax.data.preview import draw_batch
from univip_jax.data.quality import photo_warnings
from univip_jax.data.records import Dataset, open_dataset
from univip_jax.plan import Plan, make_plan
from univip_jax.run.cadence import Cadence
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.run.folder import allowed_changes, check_config, write_photo_warnings
from univip_jax.run.log import FIRST_BATCH
from univip_jax.run.plans import PlanLog
from univip_jax.sharding import local_rows, make_mesh, replicated
from univip_jax.train_step import augment_views, compile_step, lower_step
from univip_jax.types import Batch, TrainState

_PICTURED = 4  # photos of the first batch that are drawn, and whose transport plans are logged
_SLOW_ON_CPU = 20e9  # FLOP per image, from which a step on a CPU takes minutes


class Evaluator(Protocol):
    """Evaluates during training, on the first process: state to metrics, `log.TOP1` among them."""

    every: int  # steps from one evaluation to the next

    def __call__(self, state: TrainState) -> dict[str, float]: ...


@dataclass(frozen=True)
class Run:
    """A run that is opened, and refused where it cannot be, before anything is written."""

    config: ConfigDict
    folder: Path
    dataset: Dataset
    index: Index
    plan: Plan
    mesh: Mesh
    rows: np.ndarray
    cadence: Cadence
    evaluator: Evaluator | None

    @cached_property
    def first_photos(self) -> list[Preview]:
        """The first photos of the first batch, exactly as training sees them."""
        return preview(self.dataset, self.index, self.plan.views, step=0, count=_PICTURED)

    def first_views(self) -> Batch:
        """Their views."""
        return jax.tree.map(lambda *views: np.stack(views), *(photo.views for photo in self.first_photos))


MakeEvaluator = Callable[[ConfigDict, Plan], Evaluator | None]


def open_run(config: ConfigDict, folder: Path, make_evaluator: MakeEvaluator | None) -> Run:
    """Opens the data set and resolves the plan; raises UserError for what cannot be, before anything is written."""
    dataset, mesh = open_dataset(config.data.train), make_mesh()
    rows = local_rows(mesh, config.batch_size)
    index = Index(dataset, config.seed, config.batch_size)
    plan = make_plan(config, dataset.num_records)
    manifest = dataset.manifest  # the boxes of a TFDS set come with its photos, without an annotations json
    annotated = manifest["settings"]["annotations_sha256"] or manifest.get("proposals", {}).get("num_objects")
    if plan.views.proposals == "annotated" and plan.views.overlap and not annotated:  # each box would be a naive one
        raise UserError(
            f"views.proposals=annotated, but {dataset.root} holds no annotations: prepare it with "
            "--annotations=COCO.json"
        )
    evaluator = make_evaluator(config, plan) if make_evaluator else None
    every = evaluator.every if evaluator else 0
    cadence = Cadence(config.log_every_steps, config.checkpoint_every_steps, every, plan.total_steps)
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        check_config(folder, config)
    return Run(config, folder, dataset, index, plan, mesh, rows, cadence, evaluator)


def start_or_resume(run: Run, checkpoints: Checkpoints) -> tuple[int, TrainState]:
    """The number of steps that are done, and the state after them, on all devices.

    Raises UserError: the run was trained on another data set and that is not allowed, or no checkpoint is whole.
    """
    plan, everywhere = run.plan, replicated(run.mesh)
    if not checkpoints.steps():
        return 0, jax.jit(plan.init_state, out_shardings=everywhere)()
    step, state, meta = checkpoints.restore_newest(jax.eval_shape(plan.init_state), everywhere)
    if meta["fingerprint"] != run.dataset.fingerprint:
        change = (
            f"{run.dataset.root} is not the data set that {run.folder} was trained on (fingerprint "
            f"{run.dataset.fingerprint[:12]}, then {meta['fingerprint'][:12]})"
        )
        if "data.train" not in allowed_changes(run.config):
            raise UserError(
                f"{change}: name that one, or another --workdir, or change it on purpose by "
                "--config.allow_changes=data.train"
            )
        print(f"changed on purpose: {change}")
    print(f"resuming from step {step}")
    return step, state


def run_batches(run: Run, start: int) -> Iterator[Batch]:
    """This process's rows of the batches of steps `start` and later, counted from 0."""
    views, threads = run.plan.views, run.config.data.num_threads
    span = {"start": start, "stop": run.plan.total_steps}
    return make_batches(run.dataset, run.index, views, rows=run.rows, num_threads=threads, **span)


def open_plan_log(run: Run, start: int) -> PlanLog | None:
    """The log of the transport plans; None without an instance term, and in all processes but the first."""
    if not run.plan.loss.instance or jax.process_index():
        return None
    return PlanLog(run.folder, start, run.plan, run.first_views())


def compile_run(run: Run, start: int) -> jax.stages.Compiled:
    """Says what will run, draws the first batch, and compiles the step ahead of time."""
    plan, mesh, dataset = run.plan, run.mesh, run.dataset
    batch, on_cpu = plan.batch_size, mesh.devices.flat[0].platform == "cpu"
    if jax.process_index() == 0 and start == 0:
        _draw_first_batch(run, run.folder / FIRST_BATCH)
    print(
        f"data      {dataset.num_records} photos in {dataset.root}\n"
        f"run       steps {start} to {plan.total_steps}, {plan.steps_per_epoch} per epoch, {batch} images per step, "
        f"{plan.views.num_instances} instances per image\n"
        f"devices   {mesh.size} x {mesh.devices.flat[0].device_kind} in {jax.process_count()} processes",
        flush=True,
    )
    if jax.process_index() == 0:
        lines = photo_warnings(dataset.manifest, plan.views)
        write_photo_warnings(run.folder, lines)
        print("".join(f"warning   {line}\n" for line in lines), end="", flush=True)
    if on_cpu and plan.model.dtype == "bfloat16":
        print("slow      bfloat16 on a CPU: add --config.model.dtype=float32", flush=True)
    print("compiling the train step ...", flush=True)
    # Before minutes of compiling; other platforms need not know the cost of what is not compiled.
    if on_cpu and (flops := lower_step(plan, mesh).cost_analysis()["flops"] / batch) > _SLOW_ON_CPU:
        print(
            f"slow      {flops / 1e9:.0f} GFLOP per image on a CPU: try --config.model.backbone=resnet18 "
            "--config.views.scene_size=64 --config.views.instance_size=32, or a GPU (requirements-cuda.txt)",
            flush=True,
        )
    compiled = compile_step(plan, mesh)
    params = jax.eval_shape(plan.init_state).params
    parameters, backbone = (
        sum(x.size for x in jax.tree.leaves(tree)) / 1e6 for tree in (params, params["encoder"]["backbone"])
    )
    print(f"network   {plan.model.backbone}, {parameters:.1f} M parameters trained, {backbone:.1f} M of them backbone")
    if flops := (compiled.cost_analysis() or {}).get("flops"):  # not every platform counts
        flops *= mesh.size
        print(
            f"compute   {flops / batch / 1e9:.2f} GFLOP per image, {flops * (plan.total_steps - start):.2g} FLOP to do"
        )
    sys.stdout.flush()
    return compiled


def _draw_first_batch(run: Run, path: Path) -> None:
    """Draws what the network will see: a wrong folder or a wrong augmentation is best seen before days of training."""
    plan = run.plan
    augmented = jax.jit(lambda b: augment_views(jax.random.key(plan.seed), b, plan.augment)[0])(run.first_views())
    draw_batch(run.first_photos, jax.device_get(augmented), path)
    print(f"picture of the first batch: {path}")
