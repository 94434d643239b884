"""Pre-training as the loop sees it: UniVIP's data, plan, step and diagnoses."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.cut import compile_cut, photo_shapes
from univip_jax.data.cache import with_cache
from univip_jax.data.index import Index
from univip_jax.data.pipeline import Canvas, Preview, canvas_of, make_batches, photo_ids, preview
from univip_jax.data.preview import draw_batch
from univip_jax.data.quality import photo_warnings
from univip_jax.data.records import open_dataset
from univip_jax.plan import Plan, make_plan
from univip_jax.run import train as loop
from univip_jax.run.cadence import Cadence
from univip_jax.run.folder import check_config, write_photo_warnings
from univip_jax.run.health import make_spread, uniform_plan
from univip_jax.run.log import FIRST_BATCH
from univip_jax.run.plans import PlanLog
from univip_jax.run.setup import Diagnosis, Evaluator, OpenWeights, Run, Weights, started_from
from univip_jax.sharding import local_rows, make_mesh
from univip_jax.train_step import augment_views, compile_step, lower_step
from univip_jax.types import Batch, Metrics, Photos, TrainState

_PICTURED = 4  # photos of the first batch that are drawn, and whose transport plans are logged
_SLOW_ON_CPU = 20e9  # FLOP per image, from which a step on a CPU takes minutes

MakeEvaluator = Callable[[ConfigDict, Plan], Evaluator | None]


def train(
    config: ConfigDict,
    folder: Path,
    make_evaluator: MakeEvaluator | None = None,
    open_weights: OpenWeights | None = None,
) -> bool:
    """Pre-trains in `folder`, from the weights that `config.init` names, if any; see `run.train.train`."""
    return loop.train(config, folder, partial(open_run, make_evaluator=make_evaluator, open_weights=open_weights))


@dataclass(frozen=True)
class Pretraining(Run):
    """A run of UniVIP."""

    index: Index
    plan: Plan
    weights: Weights | None  # where `config.init` names some and no step is saved

    @cached_property
    def canvas(self) -> Canvas:
        """What the photos of a batch lie on."""
        return canvas_of(self.dataset, self.plan.views)

    def cut(self, photos: Photos) -> Batch:
        """The views of a batch that lies on the devices."""
        shapes = photo_shapes(self.batch_size, *self.canvas[:3])
        return compile_cut(self.plan.views, self.plan.seed, shapes, self.mesh)(photos)[0]

    @cached_property
    def first_photos(self) -> list[Preview]:
        """The first photos of the first batch, exactly as training sees them."""
        return preview(self.dataset, self.index, self.plan.views, step=0, count=_PICTURED)

    def first_views(self) -> Batch:
        """Their views."""
        return jax.tree.map(lambda *views: np.stack(views), *(photo.views for photo in self.first_photos))

    def init_state(self) -> TrainState:
        """That of the plan; the online encoder, and the target its copy, from `weights` where there are any."""
        state = self.plan.init_state()
        if not self.weights:
            return state
        params, batch_stats = self.weights.variables["params"], self.weights.variables["batch_stats"]
        return state.replace(
            params=state.params | {"encoder": state.params["encoder"] | params},
            batch_stats=state.batch_stats | {"encoder": state.batch_stats["encoder"] | batch_stats},
            target_params=state.target_params | params,
            target_batch_stats=state.target_batch_stats | batch_stats,
        )

    def batches(self, start: int) -> Iterator[Photos]:
        """See `Run.batches`."""
        views, threads = self.plan.views, self.config.data.num_threads
        span = {"start": start, "stop": self.total_steps}
        return make_batches(self.dataset, self.index, views, rows=self.rows, num_threads=threads, **span)

    def photo_ids(self, step: int) -> list[str]:
        """See `Run.photo_ids`."""
        return photo_ids(self.dataset, self.index.rows(step).records)

    def compile(self, start: int) -> Callable[[TrainState, Photos], tuple[TrainState, Metrics]]:
        """Says what will run, draws the first batch, and compiles the cut and the step ahead of time."""
        step = compile_run(self, start)
        return lambda state, photos: step(state, self.cut(photos))

    def diagnosis(self, start: int) -> Diagnosis:
        """The spread of the features, and the transport plans in `plans.npz`."""
        spread, plan_log = make_spread(self.plan.model, self.mesh), open_plan_log(self, start)

        def diagnose(step: int, state: TrainState, photos: Photos) -> dict[str, float]:
            found = spread(state, self.cut(photos))
            if plan_log:  # before the save: a checkpoint's plans are not lost
                plan_log.add(step, state)
            return found

        return diagnose

    def warning(self, newest: dict[str, float]) -> str | None:
        """That the transport plan stays near uniform."""
        plan = self.plan
        return uniform_plan(
            newest,
            total_steps=plan.total_steps,
            warmup_epochs=plan.optimizer.warmup_epochs,
            num_instances=plan.views.num_instances,
            epsilon=plan.transport.epsilon,
            num_iters=plan.transport.num_iters,
        )


def open_run(
    config: ConfigDict,
    folder: Path,
    make_evaluator: MakeEvaluator | None = None,
    open_weights: OpenWeights | None = None,
) -> Pretraining:
    """Opens the data set and resolves the plan; raises UserError for what cannot be, before anything is written."""
    dataset, mesh = with_cache(open_dataset(config.data.train), config.data), make_mesh()
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
    canvas_of(dataset, plan.views)  # refuses what cannot be
    evaluator = make_evaluator(config, plan) if make_evaluator else None
    every = evaluator.every if evaluator else 0
    cadence = Cadence(config.log_every_steps, config.checkpoint_every_steps, every, plan.total_steps)
    config, weights = started_from(config, folder, plan.model, open_weights)
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        check_config(folder, config)
    length = plan.batch_size, plan.steps_per_epoch, plan.total_steps
    return Pretraining(config, folder, dataset, mesh, rows, cadence, evaluator, *length, index, plan, weights)


def open_plan_log(run: Pretraining, start: int) -> PlanLog | None:
    """The log of the transport plans; None without an instance term, and in all processes but the first."""
    if not run.plan.loss.instance or jax.process_index():
        return None
    return PlanLog(run.folder, start, run.plan, run.first_views())


def compile_run(run: Pretraining, start: int) -> jax.stages.Compiled:
    """Says what will run, draws the first batch, and compiles the step ahead of time."""
    plan, mesh, dataset = run.plan, run.mesh, run.dataset
    canvas, batch, on_cpu = run.canvas, plan.batch_size, mesh.devices.flat[0].platform == "cpu"
    if jax.process_index() == 0 and start == 0:
        _draw_first_batch(run, run.folder / FIRST_BATCH)
    print(
        f"data      {dataset.num_records} photos in {dataset.root}, "
        f"on canvases of {canvas.height} x {canvas.width} px\n"
        f"run       steps {start} to {plan.total_steps}, {plan.steps_per_epoch} per epoch, {batch} images per step, "
        f"{plan.views.num_instances} instances per image\n"
        f"devices   {mesh.size} x {mesh.devices.flat[0].device_kind} in {jax.process_count()} processes",
        flush=True,
    )
    if jax.process_index() == 0:
        lines = photo_warnings(dataset.manifest, plan.views)
        write_photo_warnings(run.folder, lines)
        print("".join(f"warning   {line}\n" for line in lines), end="", flush=True)
    if run.weights:
        facts, note = run.weights.facts, run.weights.note
        print(
            f"weights   {facts['parts']} of {facts['source']} (step {facts['step']}, licence "
            f"{facts['licence'] or 'unknown'})" + f"; {note}" * bool(note)
        )
    if canvas.num_shrunk:
        print(
            f"shrunk    {canvas.num_shrunk} photos are larger than views.canvas={plan.views.canvas} px, and are shrunk "
            f"to it in each epoch: prepare them by --max_side={plan.views.canvas}, which does it once",
            flush=True,
        )
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


def _draw_first_batch(run: Pretraining, path: Path) -> None:
    """Draws what the network will see: a wrong folder or a wrong augmentation is best seen before days of training."""
    plan = run.plan
    augmented = jax.jit(lambda b: augment_views(jax.random.key(plan.seed), b, plan.augment)[0])(run.first_views())
    draw_batch(run.first_photos, jax.device_get(augmented), path)
    print(f"picture of the first batch: {path}")
