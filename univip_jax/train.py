"""The loop: time, disk, devices and logging; everything it calls is pure."""

import contextlib
import sys
from collections import deque
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from univip_jax.checkpoint import Checkpoints
from univip_jax.config import write_config
from univip_jax.data.index import Index
from univip_jax.data.pipeline import make_batches, photo_ids, preview
from univip_jax.data.records import Dataset, open_dataset
from univip_jax.errors import DamagedCheckpoint, UserError
from univip_jax.metrics import MetricsWriter, Progress
from univip_jax.monitor import BadSteps, is_finite
from univip_jax.plan import Plan, make_plan
from univip_jax.preemption import Preemption
from univip_jax.report import draw_batch
from univip_jax.sharding import by_batch, local_rows, make_mesh, put_batch, replicated
from univip_jax.train_step import augment_views, make_train_step
from univip_jax.types import Batch, TrainState

FIRST_BATCH = "first_batch.png"
_PICTURED = 4  # photos of the first batch that are drawn
_AHEAD = 2  # steps that may be queued on the device: more would only hold batches in its memory


def train(config: ConfigDict, run: Path) -> None:
    """Starts the run in folder `run`, or goes on from its newest checkpoint, to its end or to a SIGTERM.

    Raises UserError for what a user can put right, too many steps in a row that are not finite among it.
    """
    dataset = open_dataset(config.data.train)
    mesh = make_mesh()
    rows = local_rows(mesh, config.batch_size)
    index = Index(dataset, config.seed, config.batch_size)
    plan = make_plan(config, dataset.num_records)
    _check_proposals(dataset, plan)
    primary = jax.process_index() == 0
    if primary:
        run.mkdir(parents=True, exist_ok=True)
        write_config(run, config)

    with Preemption() as preemption, Checkpoints(run, config.keep_checkpoints) as checkpoints:
        start, state = _start_or_resume(plan, dataset, checkpoints, mesh)
        if start >= plan.total_steps:
            print(f"{run} is finished: {start} of {plan.total_steps} steps are done")
            return
        if primary and start == 0:
            _draw_first_batch(dataset, index, plan, run / FIRST_BATCH)
        batches = make_batches(
            dataset,
            index,
            plan.views,
            rows=rows,
            start=start,
            stop=plan.total_steps,
            num_threads=config.data.num_threads,
        )
        batches = (put_batch(mesh, batch) for batch in batches)
        bad_steps = BadSteps(config.max_bad_steps, run, partial(photo_ids, dataset, index))
        step_fn = _compile(plan, dataset, state, mesh, start)
        save = partial(checkpoints.save, meta={"fingerprint": dataset.fingerprint})
        with contextlib.closing(MetricsWriter(run, start)) if primary else contextlib.nullcontext() as writer:
            _loop(config, plan, start, state, batches, step_fn, save, writer, preemption, bad_steps)
        checkpoints.wait()


def _loop(config, plan: Plan, start, state, batches, step_fn, save, writer, preemption, bad_steps) -> None:
    """Steps `start` to the end; metrics of each step stay on the device until they are logged."""
    progress = Progress(start, plan.total_steps, plan.steps_per_epoch, plan.batch_size)
    window, running = [], deque()
    for step, batch in enumerate(batches, start=start + 1):
        state, metrics = step_fn(state, batch)
        window.append(metrics)
        running.append(metrics["train/loss"])
        if len(running) > _AHEAD:
            running.popleft().block_until_ready()

        last, stop = step == plan.total_steps, preemption.reached(step)
        due = last or stop or step % config.checkpoint_every_steps == 0
        if due or step % config.log_every_steps == 0:
            metrics = jax.device_get(window)
            bad_steps.check(metrics, step - len(window), primary=writer is not None)
            values = _summarize(metrics)
            rate = progress.rate(step)
            window = []
            if writer:
                writer.write(step, {**values, "train/images_per_second": rate})
                progress.report(step, rate, values)
        if due:
            save(step, state)
        if stop and not last:
            print(f"SIGTERM: saving step {step} of {plan.total_steps}; the same command goes on from there", flush=True)
            break


def _summarize(window: list[dict]) -> dict[str, float]:
    """Means of the losses over the finite steps since the last report, and the newest of the rest."""
    newest = {name: float(value) for name, value in window[-1].items()}
    good = [metrics for metrics in window if is_finite(metrics)] or window
    losses = [name for name in newest if name.startswith("train/loss")]
    return newest | {name: float(np.mean([metrics[name] for metrics in good])) for name in losses}


def _start_or_resume(plan: Plan, dataset: Dataset, checkpoints: Checkpoints, mesh: Mesh) -> tuple[int, TrainState]:
    if not checkpoints.steps():
        return 0, jax.jit(plan.init_state, out_shardings=replicated(mesh))()
    step, state, meta = _restore_newest_good(plan, checkpoints, mesh)
    if meta["fingerprint"] != dataset.fingerprint:
        raise UserError(
            f"{dataset.root} is not the data set that {checkpoints.folder.parent} was trained on (fingerprint "
            f"{dataset.fingerprint[:12]}, then {meta['fingerprint'][:12]}): name that one, or another --workdir"
        )
    print(f"going on from step {step}")
    return step, state


def _restore_newest_good(plan: Plan, checkpoints: Checkpoints, mesh: Mesh) -> tuple[int, TrainState, dict]:
    """The newest checkpoint that is what was saved, on every host; damaged ones are set aside, with a message."""
    like = jax.eval_shape(plan.init_state)
    places = []
    for step in reversed(checkpoints.steps()):
        restored, damage = None, ""
        try:
            restored = checkpoints.restore(step, like, replicated(mesh))
        except DamagedCheckpoint as error:
            damage = str(error)
        if min(multihost_utils.process_allgather(np.array([restored is not None]))) == 1:
            return step, *restored
        places.append(checkpoints.set_aside(step))
        print(f"{damage or 'damaged on another host'}: set aside as {places[-1].name}", file=sys.stderr)
    raise UserError(
        f"no checkpoint of {checkpoints.folder.parent} is whole: {', '.join(place.name for place in places)} were set "
        "aside there; restore them from a backup, or begin anew in another --workdir"
    )


def _check_proposals(dataset: Dataset, plan: Plan) -> None:
    """Annotated instances need a data set with annotations; without any, each box would silently be a naive one."""
    annotated = dataset.manifest["settings"]["annotations_sha256"]
    if plan.views.proposals == "annotated" and plan.views.overlap and not annotated:
        raise UserError(
            f"views.proposals=annotated, but {dataset.root} holds no annotations: prepare it with "
            "--annotations=COCO.json"
        )


def _compile(plan: Plan, dataset: Dataset, state: TrainState, mesh: Mesh, start: int):
    """The step, compiled ahead of time, after saying what will run."""
    views = plan.views
    batch = plan.batch_size
    like = Batch(
        jax.ShapeDtypeStruct((batch, 2, views.scene_size, views.scene_size, 3), np.uint8),
        jax.ShapeDtypeStruct((batch, views.num_instances, views.instance_size, views.instance_size, 3), np.uint8),
    )
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=by_batch(mesh)), like)
    print("compiling the train step ...", flush=True)
    compiled = make_train_step(plan.step, mesh).lower(state, like).compile()
    flops = compiled.cost_analysis()["flops"] * mesh.size / batch
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    backbone = sum(x.size for x in jax.tree.leaves(state.params["encoder"]["backbone"]))
    print(
        f"data      {dataset.num_records} photos in {dataset.root}\n"
        f"run       steps {start} to {plan.total_steps}, {plan.steps_per_epoch} an epoch, {batch} photos a step, "
        f"{views.num_instances} instances a photo\n"
        f"devices   {mesh.size} x {mesh.devices.flat[0].device_kind} in {jax.process_count()} processes\n"
        f"network   {plan.step.model.backbone}, {parameters / 1e6:.1f} M parameters trained, {backbone / 1e6:.1f} M "
        f"of them backbone\n"
        f"compute   {flops / 1e9:.2f} GFLOP an image, {flops * batch * (plan.total_steps - start):.2g} FLOP to do",
        flush=True,
    )
    return compiled


def _draw_first_batch(dataset: Dataset, index: Index, plan: Plan, path: Path) -> None:
    """Draws what the network will see: a wrong folder or a wrong augmentation is best seen before days of training."""
    photos = preview(dataset, index, plan.views, step=0, count=_PICTURED)
    batch = jax.tree.map(lambda *views: np.stack(views), *(photo.views for photo in photos))
    augmented = jax.jit(lambda b: augment_views(jax.random.key(plan.step.seed), b, plan.step.augment)[0])(batch)
    draw_batch(photos, jax.device_get(augmented), path)
    print(f"picture of the first batch: {path}")
