"""`configs/detection.py`: trains a detector, gives its norms precise statistics, writes it, and judges it."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.config import flatten
from univip_jax.data.detection.canvas import InputSpec
from univip_jax.data.detection.sets import DetectionSet, open_set, require_masks
from univip_jax.detection.evaluation import evaluate_detector
from univip_jax.detection.precise_bn import precise_statistics
from univip_jax.detection.protocol import protocol_of, schedule_of
from univip_jax.detection.start import open_detector
from univip_jax.detection.step import Detector
from univip_jax.detection.training import DetectorRun, open_run
from univip_jax.evaluate.results import RESULTS, read_results, write_results
from univip_jax.evaluate.task import claim
from univip_jax.run import train as loop
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.run.folder import CONFIG, FREE_FIELDS
from univip_jax.sharding import local_rows, make_mesh, of_first_process, replicated
from univip_jax.types import DetectorState
from univip_jax.weights.detector_file import DETECTOR, write_detector

# Fields that do not enter the results of a detector that is judged; digests stand for the places.
_NO_SETTINGS = (*FREE_FIELDS, "pretrained", "test.batch_size")


def train(config: ConfigDict, folder: Path) -> bool:
    """Trains and judges in `folder`, from where an earlier process ended; returns whether SIGTERM stopped it.

    With `schedule.steps=0` the detector `pretrained` is judged as it is.

    Raises as `run.train.train` does; what the test set lacks, before the first step.
    """
    if not config.schedule.steps:
        _judge_file(config, folder)
        return False
    opened: list[tuple[DetectorRun, DetectionSet | None]] = []

    def open_both(config: ConfigDict, folder: Path) -> DetectorRun:
        _refuse_results_of_others(folder)
        test = _open_test(config)
        opened.append((open_run(config, folder, test), test))
        return opened[-1][0]

    if loop.train(config, folder, open_both):
        return True
    run, test = opened[-1]
    if _is_finished(folder, config):
        return False
    state = _last_state(run)
    seconds, begun = {}, time.perf_counter()
    stats = precise_statistics(run, state, config.precise_bn) if config.precise_bn else state.batch_stats
    variables = {"params": state.params, "batch_stats": stats}
    seconds["precise_bn"] = round(time.perf_counter() - begun, 1)
    if jax.process_index() == 0:
        facts = {
            "categories": [category._asdict() for category in run.photos.categories],
            "detector": dataclasses.asdict(run.detector.spec),
            "input": dataclasses.asdict(run.input),
            "dtype": config.dtype,
            "step": run.total_steps,
            "pretrained": run.start.source,
        }
        write_detector(folder / DETECTOR, run.detector.net, jax.device_get(variables), facts)
        print(f"the detector: {folder / DETECTOR}", flush=True)
    if test:
        _judge(config, folder, run.detector, variables, run.input, test, _facts(run) | {"seconds": seconds})
    else:
        print("no test set: judge it with --config.data.test=DIR and the same command", flush=True)
    return False


def _last_state(run: DetectorRun) -> DetectorState:
    """The state after the last step."""
    with Checkpoints(run.folder) as checkpoints:
        step, state, _ = checkpoints.restore_newest(jax.eval_shape(run.init_state), replicated(run.mesh))
    if step != run.total_steps:
        raise UserError(f"{run.folder} has no whole checkpoint of step {run.total_steps}: run the same command again")
    return state


def _refuse_results_of_others(folder: Path) -> None:
    """Raises UserError where results lie in a folder without a training: its own would never be written."""
    if (folder / RESULTS).exists() and not (folder / CONFIG).exists():
        raise UserError(f"{folder} holds the {RESULTS} of an evaluation: choose another --workdir, or delete it")


def _is_finished(folder: Path, config: ConfigDict) -> bool:
    there = read_results(folder) is not None if config.data.test else True
    there = there and ((folder / DETECTOR).is_file() or not config.schedule.steps)
    (finished,) = of_first_process([there])
    if finished:
        place = folder / (RESULTS if config.data.test else DETECTOR)
        print(f"{place} is there already: delete it to {'judge' if config.data.test else 'write it'} again", flush=True)
    return bool(finished)


def _open_test(config: ConfigDict) -> DetectionSet | None:
    """The test set, with what can be said of it before the first step."""
    if not config.data.test:
        return None
    test = open_set(config.data.test)
    if config.detector.masks:
        require_masks(test)
    local_rows(make_mesh(), config.test.batch_size, "test.batch_size")
    return test


def _judge_file(config: ConfigDict, folder: Path) -> None:
    """Judges the detector `pretrained`, which need not be ours."""
    test = _open_test(config)
    if test is None:
        raise UserError("data.test is not set: --config.data.test=DIR names the photos to judge the detector on")
    detector, variables, given, source = open_detector(config, test)
    if (folder / CONFIG).exists():
        raise UserError(f"{folder} is the folder of a training: choose another --workdir for an evaluation")
    settings = {name: value for name, value in flatten(config).items() if name not in _NO_SETTINGS}
    claim(folder, settings | {"weights": source["sha256"], "test": test.dataset.fingerprint})
    if not _is_finished(folder, config):
        _judge(config, folder, detector, variables, given, test, {"pretrained": source, "steps": 0})


def _facts(run: DetectorRun) -> dict[str, Any]:
    """What the results say of a training."""
    backbone = run.detector.net.backbone
    protocol = protocol_of(
        run.detector.spec, run.input, run.schedule, backbone=(backbone.variant, backbone.width),
        batch_size=run.batch_size, precise_bn=run.config.precise_bn,
    )  # fmt: skip
    return {
        "protocol": protocol,
        "schedule": schedule_of(run.schedule),
        "pretrained": run.start.source,
        "steps": run.total_steps,
        "batch_size": run.batch_size,
        "photos_seen": run.total_steps * run.batch_size,
        "epochs": run.total_steps / run.steps_per_epoch,
        "train": run.photos.describe() | {"left_out": run.left_out()},
    }


def _judge(
    config: ConfigDict, folder: Path, detector: Detector, variables: Any, given: InputSpec, test: DetectionSet,
    facts: dict[str, Any],
) -> None:  # fmt: skip
    judged = evaluate_detector(
        detector, variables, test, given, folder,
        batch_size=config.test.batch_size, num_photos=config.test.num_photos, mesh=make_mesh(),
    )  # fmt: skip
    if jax.process_index() == 0:
        seconds = facts.get("seconds", {}) | judged.pop("seconds", {})
        settings = {name: value for name, value in flatten(config).items() if name not in FREE_FIELDS}
        everything = facts | judged | {"test": test.describe(), "seconds": seconds, "seed": config.seed}
        write_results(folder, everything | {"devices": jax.device_count(), "settings": settings})
    multihost_utils.sync_global_devices("judged")  # a process that ended would end the job
