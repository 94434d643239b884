"""Whether a train step is right on this device, and repeats bit for bit: compiled anew, and after `kill -9`.

    python -m benchmarks.repeats --json=FILE                       # ResNet-50, 224/96, K = 4, bfloat16
    python -m benchmarks.repeats --json=FILE --batch=4 --backbone=resnet10 --width=0.0625 --stem=small --hidden=8 \\
        --projection=4 --scene_size=32 --instance_size=16 --num_instances=2      # for a CPU, a minute

Three processes take the same steps of a run: one undisturbed; one that finds XLA's choices but no program, compiles
anew and is killed behind a checkpoint; one that resumes there. Beside them a CPU takes the first step in float32: the
statistics of all batch norms and the gradient must be near its own. Exit code 1 where a promise does not hold. Needs no
data set and no TensorFlow.
"""

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks.step.__main__ import FIELDS, define_fields
from benchmarks.step.program import Program, random_pixels
from univip_jax.common.cli import define_path
from univip_jax.common.cli import run as run_command
from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole
from univip_jax.plan import Plan, make_plan
from univip_jax.reproduce.rows import PHOTOS
from univip_jax.run.checkpoint import Checkpoints, Retention
from univip_jax.run.compiled import CHOICES, FOLDER, cache_compiled
from univip_jax.run.integrity import digests
from univip_jax.sharding import make_mesh, put_batch, replicated
from univip_jax.train_step import compile_step
from univip_jax.types import Batch, TrainState

NAME = "benchmarks.repeats"
_STEPS, _SAVED = 4, 2
# Of the first step against float32's: relative errors of the norms' statistics, median and largest; of the gradient's
# norm; error of the loss, a sum of cosines. The gradient's direction is not held to: rounding turns a new ResNet-50's.
_MEDIAN, _LARGEST, _NORM, _LOSS = 0.02, 0.5, 0.25, 0.1


def _define_flags() -> None:
    define_fields()
    flags.DEFINE_integer("batch", 16, "Images per step.", 2)
    define_path("json", None, "File for the findings.")


def _batch(plan: Plan) -> Batch:
    """Coarse squares of random colours: images of noise are alike, so that only rounding would tell them apart."""
    views, size = plan.views, plan.batch_size

    def squares(count: int, side: int) -> np.ndarray:
        coarse = random_pixels(size, count, 4)
        return coarse.repeat(-(-side // 4), 2).repeat(-(-side // 4), 3)[:, :, :side, :side]

    return Batch(squares(2, views.scene_size), squares(views.num_instances, views.instance_size))


def _first_step(step: Callable[..., Any], state: TrainState, batch: Batch, file: Path) -> tuple[TrainState, Any]:
    """Takes it; writes the loss, by how much it moved each array of the norms' statistics, and its gradient."""
    before = jax.tree.map(np.array, state.batch_stats)  # copies: the state is donated
    state, metrics = step(state, batch)
    moved = jax.tree.leaves(jax.tree.map(lambda new, old: np.asarray(new) - old, state.batch_stats, before))
    momentum = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    np.savez(file, *moved, loss=metrics["train/loss"], gradient=np.concatenate(momentum))
    return state, metrics


def nearness(file: Path, exact: Path) -> dict[str, Any]:
    """What two first steps have in common."""
    ours, theirs = np.load(file), np.load(exact)
    first, second = ours["gradient"], theirs["gradient"]
    names = [name for name in ours if name.startswith("arr_")]
    errors = [np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(theirs[name]) for name in names]
    norms = np.linalg.norm(first), np.linalg.norm(second)
    found = {
        "loss": float(ours["loss"]),
        "loss_float32_cpu": float(theirs["loss"]),
        "statistics_median": float(np.median(errors)),
        "statistics_largest": float(max(errors)),
        "gradient_norm_ratio": float(norms[0] / norms[1]),
        "gradient_cosine": float(np.vdot(first, second) / (norms[0] * norms[1])),
    }
    near = np.median(errors) <= _MEDIAN and max(errors) <= _LARGEST and abs(norms[0] / norms[1] - 1) <= _NORM
    return found | {"near_float32": bool(near and abs(found["loss"] - found["loss_float32_cpu"]) <= _LOSS)}


def _take_steps(plan: Plan, run: Path, kill: bool) -> None:
    """Takes the steps from the newest checkpoint, if there is one; writes STEP.json at the saved step and the last."""
    jax.config.update("jax_compilation_cache_dir", None)  # what the environment names: the run has its own
    cache_compiled(run)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    device = jax.devices()[0]
    mesh = make_mesh([device])
    step, batch = compile_step(plan, mesh), put_batch(mesh, _batch(plan))
    start, losses = 0, []
    with Checkpoints(run, Retention(1)) as checkpoints:
        if checkpoints.steps():
            start, state, _ = checkpoints.restore_newest(jax.eval_shape(plan.init_state), replicated(mesh))
        else:
            state = jax.jit(plan.init_state, out_shardings=replicated(mesh))()
        for index in range(start, _STEPS):
            take = step if index else partial(_first_step, step, file=run / "first.npz")
            state, metrics = take(state, batch)
            losses.append(float(metrics["train/loss"]))
            if index + 1 in (_SAVED, _STEPS):
                found = {"device": device.device_kind, "platform": device.platform, "start": start, "losses": losses}
                (run / f"{index + 1}.json").write_text(json.dumps(found | {"digests": digests(state)}))
            if index + 1 == _SAVED:
                checkpoints.save(_SAVED, state, {})
                checkpoints.wait()
                if kill:
                    os.kill(os.getpid(), signal.SIGKILL)


def _first_step_on_cpu(plan: Plan, file: Path) -> None:
    """The first step in float32."""
    jax.config.update("jax_platforms", "cpu")
    plan, mesh = replace(plan, model=replace(plan.model, dtype="float32")), make_mesh(jax.devices()[:1])
    state = jax.jit(plan.init_state, out_shardings=replicated(mesh))()
    _first_step(compile_step(plan, mesh), state, put_batch(mesh, _batch(plan)), file)


def _start(target: Callable[..., None], *arguments: Any) -> multiprocessing.Process:
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def _await(process: multiprocessing.Process, what: str, code: int = 0) -> None:
    process.join()
    if process.exitcode != code:
        raise UserError(f"{what} ended with code {process.exitcode}, not {code}: its own lines are above")


def _choices(run: Path) -> set[str]:
    """The names of the files in which XLA stored what it chose."""
    return {path.name for path in run.glob(f"{FOLDER}/*/{CHOICES}/**/*") if path.is_file()}


def _find(plan: Plan, folder: Path) -> dict[str, Any]:
    """What the processes found; each true or false value is a promise that holds or not."""
    one, anew, file = folder / "one", folder / "anew", folder / "cpu.npz"
    on_cpu = _start(_first_step_on_cpu, plan, file)
    _await(_start(_take_steps, plan, one, False), "the undisturbed process")
    shutil.copytree(one / FOLDER, anew / FOLDER, ignore=shutil.ignore_patterns("*-cache", "*-atime"))
    _await(_start(_take_steps, plan, anew, True), "the process that compiles anew", -signal.SIGKILL)
    choices = _choices(one), _choices(anew)
    _await(_start(_take_steps, plan, anew, False), "the process that resumes")
    _await(on_cpu, "the CPU's process")
    read = lambda path: json.loads(path.read_text())  # noqa: E731
    whole, half, half_anew, resumed = (
        read(run / f"{step}.json") for run, step in ((one, _STEPS), (one, _SAVED), (anew, _SAVED), (anew, _STEPS))
    )
    return {
        "device": whole["device"],
        "losses": whole["losses"],
        "finite": bool(np.isfinite(whole["losses"]).all()),
        **nearness(one / "first.npz", file),
        "choices": len(choices[0]),
        "choices_are_reused": choices[0] == choices[1] and bool(choices[0]) == (whole["platform"] == "gpu"),
        "compiled_anew_is_equal": half_anew["start"] == 0 and half_anew["digests"] == half["digests"],
        "resumed_is_equal": resumed["start"] == _SAVED and resumed["digests"] == whole["digests"],
    }


def _work() -> int:
    fields = tuple((field, flags.FLAGS[name].value) for name, field in FIELDS.items())
    plan = make_plan(Program("jax", "univip", flags.FLAGS.batch, "", fields).config(), PHOTOS["coco"])
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # a killed process may hold its memory for a moment
    with tempfile.TemporaryDirectory() as folder:
        found = _find(plan, Path(folder))
    broken = [name for name, value in found.items() if value is False]
    print(json.dumps(found, indent=1), f"does not hold: {', '.join(broken) or 'nothing'}", sep="\n")
    write_whole(Path(flags.FLAGS.json), json.dumps(found) + "\n")
    return int(bool(broken))


if __name__ == "__main__":
    run_command(NAME, _define_flags, ("json",), _work, interrupted="run it again")
