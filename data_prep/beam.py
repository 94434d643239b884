"""Apache Beam runs the shards: on machines that see the same folders (Dataflow, Flink, Spark), or on this one.

Needs requirements-beam.txt.
"""

import logging
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions, WorkerOptions

from data_prep.runners import Task
from univip_jax.common.errors import UserError
from univip_jax.common.files import temporary
from univip_jax.data.host import run_on_one_core

_LOCAL = ("DirectRunner", "FnApiRunner")


def run(task: Task, specs: Sequence[Any], out: Path, options: Sequence[str], num_workers: int) -> None:
    """Maps the task over the specs; its results are the files that it writes.

    Args:
        out: folder that all workers see. It holds the specs during the run, for they may exceed the size of a job.
        options: Beam's pipeline options, such as `--runner=FlinkRunner`; none: `num_workers` processes of this machine.

    Raises UserError: from the task, or the pipeline failed.
    """
    parsed = PipelineOptions(list(options))
    if local := parsed.view_as(StandardOptions).runner in (None, *_LOCAL):
        # The exception carries the worker's traceback; on a cluster the log is needed too.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
        parsed.view_as(WorkerOptions).default_sdk_harness_log_level = "CRITICAL"
    if parsed.view_as(StandardOptions).runner is None:
        parsed.view_as(StandardOptions).runner = "DirectRunner"
        parsed.view_as(DirectOptions).direct_running_mode = "multi_processing"
        parsed.view_as(DirectOptions).direct_num_workers = num_workers
    with temporary(out / "specs") as path:
        offsets = _write(path, specs)
        try:
            with apache_beam.Pipeline(options=parsed) as pipeline:
                # Without Reshuffle, runners fuse the steps and one worker does everything.
                spread = pipeline | apache_beam.Create(offsets) | apache_beam.Reshuffle()
                spread | apache_beam.ParDo(_Process(task, str(path)))
        except Exception as error:  # each runner has its own, with the worker's traceback as text
            line = str(error) if isinstance(error, UserError) else "".join(re.findall(r"UserError: .+", str(error))[:1])
            if line:
                raise UserError(re.sub(r"^.*UserError: | \[while running .*", "", line)) from error
            if local:
                raise
            raise UserError(f"Apache Beam's pipeline failed ({error!r:.300}): its runner's log says more") from error


def _write(path: Path, specs: Sequence[Any]) -> list[int]:
    """Writes the specs one after the other; returns the byte offset of each."""
    offsets = []
    with open(path, "wb") as file:
        for spec in specs:
            offsets.append(file.tell())
            pickle.dump(spec, file)
    return offsets


class _Process(apache_beam.DoFn):
    """Reads a spec from the shared file and does the task."""

    def __init__(self, task: Task, specs: str):
        self._task, self._specs = task, specs

    def setup(self) -> None:
        run_on_one_core()

    def process(self, offset: int) -> None:
        with open(self._specs, "rb") as file:
            file.seek(offset)
            spec = pickle.load(file)  # written by our own launcher
        self._task(spec, Metrics.counter("data_prep", "photos").inc)
