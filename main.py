"""The one entry: `python main.py --config=configs/coco.py --workdir=DIR [--config.field=value ...]`."""

import os
import sys
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path

# XLA reads it when it is imported; its start-up notes hide what a user needs to read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from univip_jax.run.clock import Alarm  # isort: skip (first: it notes when the process began)

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from univip_jax.common import cli
from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import UserError
from univip_jax.common.files import at, expand, held
from univip_jax.config import check_least, expand_paths
from univip_jax.run.cluster import Place, check_place, held_by_first, join

TRAININGS = ("train", "detection")  # that resume, and that SIGTERM may stop
# What `config.task` names: a function of (config, workdir), imported when it is chosen. Imports take seconds; wrong
# flags are refused before them.
TASKS = {
    "train": "univip_jax.run.pretraining:train",
    "detection": "univip_jax.detection.task:train",
    "knn": "univip_jax.evaluate.knn:evaluate",
    "linear": "univip_jax.evaluate.linear:evaluate",
    "semi": "univip_jax.evaluate.semi:evaluate",
    "svm": "univip_jax.evaluate.svm:evaluate",
}

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, as configs/coco.py.", lock_config=True)
_PARSER = flags.FLAGS["config"].parser
_PARSER.parse = lambda path, parse=_PARSER.parse: parse(expand(path))
_WORKDIR = cli.define_path("workdir", None, "The run's folder: config, checkpoints, metrics, results.")
_STEPS = flags.DEFINE_list("steps", [], "Evaluates these checkpoints of the run: all, newest, or steps as 1000,2000.")
_SEEDS = flags.DEFINE_list("seeds", [], "Evaluates with each of these seeds, as 0,1,2.")
_PREEMPTED = flags.DEFINE_integer(
    "preempted_exit_code",
    0,
    "Exit code of a training that SIGTERM stopped and that is saved; 143 for a scheduler that takes 0 as finished.",
    lower_bound=0,
    upper_bound=255,
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes, one per host. TPU pods, Slurm and Open MPI need no other flag."
)
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "With --distributed: HOST:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --distributed: how many there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --distributed: which this is, from 0.")
_PLACE = (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID)


def parse(args: list[str]) -> list[str]:
    """absl's parser; misuse, and a config that is missing or refuses its argument, is one line and exit code 2."""
    try:
        rest = flags.FLAGS(args)
        if len(rest) > 1:
            raise UserError(f"argument {rest[1]!r} is not understood; flags begin with --")
        for flag in ("config", "workdir"):
            if flags.FLAGS[flag].value is None:
                raise UserError(f"--{flag} is missing; as in: --config=configs/coco.py --workdir=runs/coco")
        if _CONFIG.value.task not in TASKS:  # a config file that is missing fails at its first use
            raise UserError(f"task={_CONFIG.value.task!r} is unknown; there are {', '.join(TASKS)}")
        expand_paths(_CONFIG.value)
        check_place(Place(*(flag.value for flag in _PLACE)), _DISTRIBUTED.value)
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, UserError) as error:
        # ml_collections wraps a KeyError, whose text is escaped and quoted. config_flags puts the whole traceback of a
        # config that raised into its message; the line is at its end.
        inner = error.args[0] if error.args and isinstance(error.args[0], KeyError) else error
        message = str(inner.args[0] if isinstance(inner, KeyError) else inner).rsplit("ValueError: ", 1)[-1]
        cli.fail("error", " ".join(message.replace('"', "").split()), 2)


def _work(config: ConfigDict, workdir: Path) -> int:
    """Runs the task. Its exit code is 0, or --preempted_exit_code where SIGTERM stopped a training."""
    check_least(config)
    sweeps = bool(_STEPS.value or _SEEDS.value)
    if sweeps and config.task in TRAININGS:
        raise UserError("--steps and --seeds are for evaluations; the seed of a training is --config.seed")
    if config.task not in TRAININGS:
        _check_outside(workdir, config)
    with ExitStack() as lock:
        with Alarm(config.get("stall_seconds", 0.0)):  # a remote disk may never deliver a module
            if _DISTRIBUTED.value:
                join(Place(*(flag.value for flag in _PLACE)))
            lock.enter_context((held_by_first if _DISTRIBUTED.value else held)(workdir))
            task = _load(TASKS[config.task])
            if config.task == "train":
                task = partial(
                    task,
                    make_evaluator=_load("univip_jax.evaluate.in_training:make_evaluator"),
                    open_weights=_load("univip_jax.weights.warm_start:open_warm_start"),
                )
            if sweeps:
                task = partial(_load("univip_jax.evaluate.sweep:sweep"), task, steps=_STEPS.value, seeds=_SEEDS.value)
            _load("univip_jax.run.compiled:cache_compiled")(workdir)
        preempted = task(config, workdir)
    return _PREEMPTED.value if preempted else 0


def _check_outside(workdir: Path, config: ConfigDict) -> None:
    """Raises UserError: the workdir lies in a folder of labelled photos, where it would be one more class."""
    for name in ("train", "test"):
        folder = at(config.data.get(name) or "")
        if str(folder) == "." or is_bucket(folder) != is_bucket(workdir):
            continue
        if workdir.resolve().is_relative_to(folder.resolve()) and folder.is_dir():
            raise UserError(f"--workdir={workdir} lies in data.{name}={folder}: choose a folder outside of it")


def _load(place: str):
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def main(_: list[str]) -> None:
    """Runs the task that the config names, and exits with its code: at once where it failed.

    Otherwise JAX waits minutes for other processes, and Orbax for threads of a save that failed.
    """
    workdir = at(_WORKDIR.value)
    try:
        work = partial(_work, _CONFIG.value, workdir)
        cli.call("error", work, interrupted="run the same command again to resume", folder=workdir)
    except SystemExit as end:
        # A run that is saved exits as others do: its processes wait for each other, else one would abort the rest.
        if end.code and end.code != _PREEMPTED.value:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code)
        raise


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
