"""The one entry: `python main.py --config=configs/coco.py --workdir=DIR [--config.field=value ...]`."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

# XLA reads it when it is imported; its start-up notes hide what a user needs to read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from univip_jax.run import goodput  # noqa: F401, I001 (imported first: it notes when the process began)

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from univip_jax.config import check_least
from univip_jax.common.errors import UserError
from univip_jax.run.watchdog import Watchdog

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_SOFTWARE_ERROR = 70  # EX_SOFTWARE of sysexits.h: not a mistake of the user's, so a supervisor tries again

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, as configs/coco.py.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder: config, checkpoints, metrics, results.")
_STEPS = flags.DEFINE_list("steps", [], "Evaluates these checkpoints of the run: all, newest, or steps as 1000,2000.")
_SEEDS = flags.DEFINE_list("seeds", [], "Evaluates with each of these seeds, as 0,1,2.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes, one a host. TPU pods, Slurm and Open MPI need no other flag."
)
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "With --distributed: HOST:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --distributed: how many there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --distributed: which this is, from 0.")


def _parse_flags(args: list[str]) -> list[str]:
    """absl's parser, with one line instead of a traceback for a field that no config has."""
    try:
        rest = flags.FLAGS(args)
        if len(rest) > 1:
            raise UserError(f"argument {rest[1]!r} is not understood; flags begin with --")
        for flag in ("config", "workdir"):
            if flags.FLAGS[flag].value is None:
                raise UserError(f"--{flag} is missing; as in: --config=configs/coco.py --workdir=runs/coco")
        _ = _CONFIG.value.task  # a config file that is missing fails at its first use
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, UserError) as error:
        # config_flags puts the whole traceback of a config that raised into its message; the end is what it said.
        message = " ".join(str(error).rsplit("ValueError: ", 1)[-1].replace('"', "").split())
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def _open_task(config: ConfigDict, workdir: Path) -> Callable[[ConfigDict, Path], None]:
    """What the config asks for. Here begin the imports that take seconds: flags are told right or wrong before."""
    sweeps = bool(_STEPS.value or _SEEDS.value)
    if sweeps and config.task == "train":
        raise UserError("--steps and --seeds are of evaluations; a training's seed is --config.seed")
    if _DISTRIBUTED.value:
        import jax

        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if config.task == "train":
        from univip_jax.run.train import train as task
    elif config.task == "knn":
        from univip_jax.evaluate.knn import evaluate_knn as task
    elif config.task == "linear":
        from univip_jax.evaluate.linear import evaluate_linear as task
    elif config.task == "semi":
        from univip_jax.evaluate.semi import evaluate_semi as task
    elif config.task == "svm":
        from univip_jax.evaluate.svm import evaluate_svm as task
    else:
        raise UserError(f"task={config.task!r} is unknown; there are train, knn, linear, semi and svm")
    if sweeps:
        from univip_jax.evaluate.sweep import sweep

        task = partial(sweep, task, steps=_STEPS.value, seeds=_SEEDS.value)
    from univip_jax.run.compiled import keep_compiled

    keep_compiled(workdir)
    return task


def _run(_: list[str]) -> None:
    config, workdir = _CONFIG.value, Path(_WORKDIR.value)
    logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant; failures are raised
    try:
        check_least(config)
        with Watchdog(config.get("stall_seconds", 0.0)):  # a disk of another machine may never give a module
            task = _open_task(config, workdir)
        task(config, workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        _end(error.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the newest checkpoint", file=sys.stderr)
        _end(130)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):  # XLA's word
            print("error: out of memory on the device: lower --config.batch_size, or use more devices", file=sys.stderr)
            _end(1)
        if isinstance(error, OSError) and (error.errno in _UNWRITABLE or _is_below(workdir, error.filename)):
            place = error.filename or f"a file in --workdir={workdir}"
            print(f"error: {place}: {error.strerror}; put it right, or choose another --workdir", file=sys.stderr)
            _end(1)
        traceback.print_exc()
        _end(_SOFTWARE_ERROR)


def _is_below(workdir: Path, filename: object) -> bool:
    return isinstance(filename, str | os.PathLike) and Path(filename).absolute().is_relative_to(workdir.absolute())


def _end(code: int) -> None:
    """Ends at once: JAX would first wait minutes for other processes, and Orbax for threads of a save that failed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    app.run(_run, flags_parser=_parse_flags)
