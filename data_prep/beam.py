"""Apache Beam runs the shards: on machines that see the same folders or buckets (Dataflow, Flink, Spark), or on this.

Needs requirements-beam.txt.
"""

import logging
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import apache_beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions, WorkerOptions

from data_prep.runners import Task
from univip_jax.common.buckets import is_bucket, put
from univip_jax.common.errors import TransientError, UserError
from univip_jax.common.files import read_bytes, temporary
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
    with _shared(out, specs) as (path, places):
        try:
            with apache_beam.Pipeline(options=parsed) as pipeline:
                # Without Reshuffle, runners fuse the steps and one worker does everything.
                spread = pipeline | apache_beam.Create(places) | apache_beam.Reshuffle()
                spread | apache_beam.ParDo(_Process(task, str(path)))
        except Exception as error:  # each runner has its own, with the worker's traceback as text
            if isinstance(error, UserError):
                raise
            if told := re.search(r"(TransientError|UserError): (.+?)( \[while running .*)?$", str(error), re.MULTILINE):
                raise (TransientError if told[1] == "TransientError" else UserError)(told[2]) from error
            if local:
                raise
            raise UserError(f"Apache Beam's pipeline failed ({error!r:.300}): its runner's log says more") from error


@contextmanager
def _shared(out: Path, specs: Sequence[Any]) -> Iterator[tuple[Path, list[tuple[int, int]]]]:
    """A file in `out` with all specs, until the block ends, and where each begins and ends in it, bytes."""
    ends = [0]
    with temporary(out / "specs") as path:
        with open(path, "wb") as file:
            for spec in specs:
                pickle.dump(spec, file)
                ends.append(file.tell())
        if is_bucket(out):
            put(out / path.name, path)
        try:
            yield out / path.name, list(pairwise(ends))
        finally:
            if is_bucket(out):
                (out / path.name).unlink(missing_ok=True)


class _Process(apache_beam.DoFn):
    """Reads a spec from the shared file and does the task."""

    def __init__(self, task: Task, specs: str):
        self._task, self._specs = task, specs

    def setup(self) -> None:
        run_on_one_core()

    def process(self, place: tuple[int, int]) -> None:
        spec = pickle.loads(read_bytes(self._specs, *place))  # written by our own launcher
        self._task(spec, Metrics.counter("data_prep", "photos").inc)
