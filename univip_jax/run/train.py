"""A run from its first step to its last: what it calls is pure, what has effects is in this room."""

import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.run.clock import Clock
from univip_jax.run.folder import write_config
from univip_jax.run.health import BadSteps
from univip_jax.run.log import RunLog
from univip_jax.run.setup import Run, start_or_resume
from univip_jax.run.stop import Stop
from univip_jax.sharding import of_first_process, put_batch

_AHEAD = 2  # steps that may be queued on the device: more would only hold batches in its memory


def train(config: ConfigDict, folder: Path, open_run: Callable[[ConfigDict, Path], Run]) -> bool:
    """Trains what `open_run` opens in `folder`, from its newest checkpoint, to its end or to a SIGTERM.

    Returns whether SIGTERM stopped it.

    Raises:
      UserError: what a user can put right, too many steps in a row that are not finite among it.
      TransientError: what may be gone when the same run is started again.
    """
    first = jax.process_index() == 0
    with Clock(folder if first else None, config.stall_seconds) as clock:
        run = open_run(config, folder)
        keep = Retention(config.keep_checkpoints, config.keep_every_steps)
        with Stop() as stop, Checkpoints(folder, keep) as checkpoints:
            with clock.spend("restore" if checkpoints.steps() else "compile"):
                start, state = start_or_resume(run, checkpoints)
            if first:
                write_config(folder, run.config)  # not before a checkpoint fits it
            with contextlib.closing(RunLog(folder if first else None, start, run, clock)) as log:
                evaluate = partial(_evaluate, run, log, keep, clock)
                keep.best, evaluated = of_first_process([log.best() or 0, log.is_evaluated(start)])
                if run.cadence.evaluates(start) and not evaluated:
                    evaluate(start, state)
                    clock.write()
                if start >= run.total_steps:
                    print(f"{folder} is finished: {start} of {run.total_steps} steps are done")
                    return False
                return _steps(run, start, state, clock, log, checkpoints, stop, evaluate)


def _steps(
    run: Run,
    start: int,
    state: Any,
    clock: Clock,
    log: RunLog,
    checkpoints: Checkpoints,
    stop: Stop,
    evaluate: Callable[[int, Any], None],
) -> bool:
    """The loop. Its order (report, save, evaluate, stop) is the contract of a restart."""
    with clock.spend("compile"):
        step_fn, diagnose = run.compile(start), run.diagnosis(start)
    bad_steps = BadSteps(run.config.max_bad_steps, run.folder, run.photo_ids)
    first, total, window = jax.process_index() == 0, run.total_steps, _Window()
    if stop.reached(start):
        print(f"SIGTERM before step {start + 1}; run the same command again to resume there", flush=True)
        return True
    batches = run.batches(start)
    log.train_from_now()
    for step in range(start + 1, total + 1):
        with clock.spend("data"):
            batch = put_batch(run.mesh, next(batches))
        state, metrics = step_fn(state, batch)
        window.push(metrics)
        clock.step()
        due = run.cadence.due(step, stopping=stop.reached(step))
        if due.report:
            steps = window.take()
            bad_steps.check(steps, step - len(steps), first)
            found = {}
            if due.diagnose:
                with clock.spend("evaluate"):
                    found = diagnose(step, state, batch)
            log.report(step, steps, found)
            checkpoints.check()
        else:
            log.stepped(step, metrics)
        if due.save:
            with clock.spend("save"):
                log.flush()
                checkpoints.save(step, state, {"fingerprint": run.dataset.fingerprint})
        if due.evaluate:
            evaluate(step, state)
        if due.stop:
            break
    if step < total:
        print(f"SIGTERM: saving step {step} of {total}; run the same command again to resume there", flush=True)
    with clock.spend("save"):
        checkpoints.wait()
    clock.write()
    if first:
        print(clock.summary())
    return step < total


class _Window:
    """The metrics of the steps since the last report, on the device, where at most two steps are queued."""

    def __init__(self) -> None:
        self._metrics: list[dict] = []
        self._queued: deque[jax.Array] = deque()

    def push(self, metrics: dict) -> None:
        """Adds a step, and waits for the one that is two steps old."""
        self._metrics.append(metrics)
        self._queued.append(metrics["train/loss"])
        if len(self._queued) > _AHEAD:
            self._queued.popleft().block_until_ready()

    def take(self) -> list[dict]:
        """The metrics on the host; the next window is empty."""
        metrics, self._metrics = jax.device_get(self._metrics), []
        return metrics


def _evaluate(run: Run, log: RunLog, keep: Retention, clock: Clock, step: int, state: Any) -> None:
    """Evaluates the state after `step` steps, on the first process; all learn which checkpoint is the best."""
    with clock.spend("evaluate"):
        if jax.process_index() == 0:
            log.evaluated(step, run.evaluator(state))
        (keep.best,) = of_first_process([log.best() or 0])
