"""The loop: time, disk, devices and logging; everything it calls is pure."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.config import allowed_changes, check_config, keep_config, to_spec
from univip_jax.data.index import Index
from univip_jax.data.pipeline import make_batches, photo_ids, preview
from univip_jax.data.preview import draw_batch
from univip_jax.data.records import Dataset, open_dataset
from univip_jax.evaluate.in_training import KnnDuringTraining, KnnSpec, make_spread
from univip_jax.plan import Plan, make_plan
from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.run.compiled import seal_compiled
from univip_jax.run.goodput import Goodput
from univip_jax.run.log import RunLog
from univip_jax.run.metrics import FIRST_BATCH
from univip_jax.run.monitor import BadSteps
from univip_jax.run.resume import start_or_resume
from univip_jax.run.stop import Preemption
from univip_jax.run.watchdog import Watchdog
from univip_jax.sharding import local_rows, make_mesh, of_first_process, put_batch
from univip_jax.train_step import augment_views, compile_step
from univip_jax.types import Batch, TrainState

_PICTURED = 4  # photos of the first batch that are drawn
_AHEAD = 2  # steps that may be queued on the device: more would only hold batches in its memory


def train(config: ConfigDict, run: Path) -> None:
    """Starts the run in folder `run`, or goes on from its newest checkpoint, to its end or to a SIGTERM.

    Raises:
      UserError: what a user can put right, too many steps in a row that are not finite among it.
      TransientError: what may be gone when the same run is started again.
    """
    with Watchdog(config.stall_seconds) as watchdog:
        _train(config, run, watchdog)


def _train(config: ConfigDict, run: Path, watchdog: Watchdog) -> None:
    dataset = open_dataset(config.data.train)
    mesh = make_mesh()
    rows = local_rows(mesh, config.batch_size)
    index = Index(dataset, config.seed, config.batch_size)
    plan = make_plan(config, dataset.num_records)
    _check_proposals(dataset, plan)
    primary = jax.process_index() == 0
    knn_spec = to_spec(KnnSpec, config, "knn")
    knn_every = knn_spec.interval(plan.steps_per_epoch)
    knn = KnnDuringTraining(knn_spec, plan.model, plan.views.scene_size) if knn_every and primary else None
    if primary:
        run.mkdir(parents=True, exist_ok=True)
        check_config(run, config)
    goodput = Goodput(run if primary else None)
    retention = Retention(config.keep_checkpoints, config.keep_every_steps)

    with Preemption() as preemption, Checkpoints(run, retention) as checkpoints:
        with goodput.spend("restore" if checkpoints.steps() else "compile"):
            other_data = "data.train" in allowed_changes(config)
            start, state = start_or_resume(plan, dataset, checkpoints, mesh, allow_other_data=other_data)
        if primary:
            keep_config(run, config)  # not before a checkpoint fits it
        with contextlib.closing(RunLog(run if primary else None, start, plan, goodput)) as log:
            pauses = _Pauses(run, checkpoints, retention, log, goodput, watchdog, knn)
            if start:
                pauses.take_up(start, state, due=bool(knn_every and start % knn_every == 0))
            if start >= plan.total_steps:
                print(f"{run} is finished: {start} of {plan.total_steps} steps are done")
                return
            if primary and start == 0:
                _draw_first_batch(dataset, index, plan, run / FIRST_BATCH)
            with goodput.spend("compile"):
                step_fn = _compile(plan, dataset, state, mesh, start)
                seal_compiled(run)
            spread = make_spread(plan.model, mesh)
            bad_steps = BadSteps(config.max_bad_steps, run, partial(photo_ids, dataset, index))
            threads = config.data.num_threads
            batches = make_batches(
                dataset, index, plan.views, rows=rows, start=start, stop=plan.total_steps, num_threads=threads
            )
            if preemption.reached(start):
                print(f"SIGTERM before step {start + 1}; the same command goes on from there", flush=True)
                return

            log.train_from_now()
            window, running = [], deque()
            watchdog.resume()
            for step in range(start + 1, plan.total_steps + 1):
                with goodput.spend("data"):
                    batch = put_batch(mesh, next(batches))
                state, metrics = step_fn(state, batch)
                window.append(metrics)
                running.append(metrics["train/loss"])
                if len(running) > _AHEAD:
                    running.popleft().block_until_ready()
                watchdog.step()

                last, stop = step == plan.total_steps, preemption.reached(step)
                to_evaluate = knn_every and step % knn_every == 0
                to_look = last or step % config.checkpoint_every_steps == 0
                to_save = to_look or stop or to_evaluate
                if to_save or step % config.log_every_steps == 0:
                    metrics = jax.device_get(window)
                    bad_steps.check(metrics, step - len(window), primary=primary)
                    log.report(step, metrics, pauses.look(spread, state, batch) if to_look else {})
                    checkpoints.check()
                    window = []
                if to_save:
                    pauses.save(step, state, {"fingerprint": dataset.fingerprint})
                if to_evaluate and not stop:
                    pauses.evaluate(step, state)
                if stop and not last:
                    print(
                        f"SIGTERM: saving step {step} of {plan.total_steps}; the same command goes on from there",
                        flush=True,
                    )
                    break
            watchdog.pause()
            with goodput.spend("save"):
                checkpoints.wait()
            goodput.write()
            if primary:
                print(goodput.summary())


class _Pauses:
    """What comes between steps, told to the watchdog and to the ledger of time. All processes call it together."""

    def __init__(
        self,
        run: Path,
        checkpoints: Checkpoints,
        retention: Retention,
        log: RunLog,
        goodput: Goodput,
        watchdog: Watchdog,
        knn: KnnDuringTraining | None,
    ):
        """`knn` is of the first process alone, as the log is; the others are told what follows from it."""
        self._run, self._checkpoints, self._retention = run, checkpoints, retention
        self._log, self._goodput, self._watchdog, self._knn = log, goodput, watchdog, knn

    def take_up(self, start: int, state: TrainState, *, due: bool) -> None:
        """Which checkpoint is the best so far; and the evaluation after step `start`, if it was due and interrupted."""
        self._retention.best, evaluated = of_first_process([self._log.best() or 0, self._log.is_evaluated(start)])
        if due and not evaluated:
            self.evaluate(start, state)
            self._goodput.write()
            self._watchdog.pause()

    def evaluate(self, step: int, state: TrainState) -> None:
        """k-NN of the state after `step` steps, by which the best checkpoint is told."""
        with self._spend("evaluate"):
            if self._knn:
                self._log.evaluated(step, self._knn(state))
            (self._retention.best,) = of_first_process([self._log.best() or 0])

    def look(self, spread: Callable[[TrainState, Batch], dict[str, float]], state: TrainState, batch: Batch) -> dict:
        """How spread the features of a batch are (`make_spread`)."""
        with self._spend("evaluate"):
            return spread(state, batch)

    def save(self, step: int, state: TrainState, meta: dict) -> None:
        """Begins to save the state, and keeps what was compiled: the first save and evaluation compile too."""
        with self._spend("save"):
            self._checkpoints.save(step, state, meta)
            seal_compiled(self._run)

    @contextlib.contextmanager
    def _spend(self, kind: str) -> Iterator[None]:
        self._watchdog.pause()
        with self._goodput.spend(kind):
            yield
        self._watchdog.resume()


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
    print(
        f"data      {dataset.num_records} photos in {dataset.root}\n"
        f"run       steps {start} to {plan.total_steps}, {plan.steps_per_epoch} an epoch, {batch} photos a step, "
        f"{views.num_instances} instances a photo\n"
        f"devices   {mesh.size} x {mesh.devices.flat[0].device_kind} in {jax.process_count()} processes\n"
        "compiling the train step ...",
        flush=True,
    )
    compiled = compile_step(plan, mesh)
    flops = compiled.cost_analysis()["flops"] * mesh.size / batch
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    backbone = sum(x.size for x in jax.tree.leaves(state.params["encoder"]["backbone"]))
    print(
        f"network   {plan.model.backbone}, {parameters / 1e6:.1f} M parameters trained, {backbone / 1e6:.1f} M "
        f"of them backbone\n"
        f"compute   {flops / 1e9:.2f} GFLOP an image, {flops * batch * (plan.total_steps - start):.2g} FLOP to do",
        flush=True,
    )
    return compiled


def _draw_first_batch(dataset: Dataset, index: Index, plan: Plan, path: Path) -> None:
    """Draws what the network will see: a wrong folder or a wrong augmentation is best seen before days of training."""
    photos = preview(dataset, index, plan.views, step=0, count=_PICTURED)
    batch = jax.tree.map(lambda *views: np.stack(views), *(photo.views for photo in photos))
    augmented = jax.jit(lambda b: augment_views(jax.random.key(plan.seed), b, plan.augment)[0])(batch)
    draw_batch(photos, jax.device_get(augmented), path)
    print(f"picture of the first batch: {path}")
