"""Saving and restoring the state of a run: the only home of Orbax.

Every save carries a digest of each leaf, every restore verifies them: Orbax itself hands out a flipped bit silently.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from univip_jax.common.errors import DamagedCheckpoint, TransientError, UserError
from univip_jax.run.integrity import digests
from univip_jax.types import TrainState

# What ends one of Orbax's threads it logs with a traceback, and raises at the next call, where it becomes our one line.
logging.getLogger("absl").addFilter(lambda record: not (record.exc_info and "orbax" in record.pathname))

FOLDER = "checkpoints"


@dataclass
class Retention:
    """Which checkpoints stay: the newest ones, each whose step is a multiple of `every`, and `best`. Orbax's policy."""

    newest: int
    every: int = 0  # steps; 0: none
    best: int | None = None  # a step, set as evaluations tell it

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """For each checkpoint, oldest first."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-self.newest :], self.best}
        return [step in kept or bool(self.every and step % self.every == 0) for step in steps]


class _WithoutClosedLoops:
    """`sys.unraisablehook` but for one message, which follows failures that are raised and says nothing of them.

    At the first leaf that fails, Orbax closes its event loop; of that TensorStore then complains for each of the rest.
    """

    def __init__(self, earlier: Callable[[Any], Any]):
        self._earlier = earlier

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self._earlier(unraisable)


class Checkpoints:
    """The checkpoints of a run's folder. Saves are asynchronous; close it, or leave its `with`, to wait for them."""

    def __init__(self, run: Path, keep: Retention | None = None):
        """None opens the folder for reading."""
        if not isinstance(sys.unraisablehook, _WithoutClosedLoops):
            sys.unraisablehook = _WithoutClosedLoops(sys.unraisablehook)
        self.folder = Path(run).resolve() / FOLDER
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep, read_only=keep is None, create=keep is not None
        )
        if keep is None and not self.folder.is_dir():
            raise UserError(f"{run} has no {FOLDER}: it is no run, or ended before its first checkpoint")
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_: Any) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """The steps that can be restored, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: TrainState, meta: dict) -> None:
        """Begins to save the state after `step` steps; `meta` is JSON, read back by `restore`.

        Raises:
          UserError: this save, or the one before, could not be written; older checkpoints are untouched.
          DivergedReplicas: the devices do not hold the same state; nothing is saved.
        """
        meta = {**meta, "digests": digests(state, all_processes=True), "shapes": _shapes(state)}
        meta["sha256"] = _sha256(meta)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        try:
            self._manager.save(step, args=args, force=True)
        except (OSError, ValueError) as error:
            raise self._unwritten(error) from error

    def check(self) -> None:
        """Raises UserError where the save that was begun last has failed by now."""
        try:
            self._manager.check_for_errors()
        except (OSError, ValueError) as error:
            raise self._unwritten(error) from error

    def wait(self) -> None:
        """Returns when the last save is on disk; raises UserError where it failed."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: Exception) -> UserError:
        reason = " ".join(str(error).split())
        return UserError(
            f"a checkpoint cannot be written to {self.folder}: {reason}; free space or restore the disk, then the same "
            "command goes on from the newest one that was"
        )

    def restore_part(self, step: int, like: Any) -> Any:
        """Those leaves of the state after `step` steps that `like` names, as host arrays.

        Args:
          like: whole modules by field and path, with shapes, as {'params': {'encoder': {'backbone': {...}}}}.

        Raises:
          DamagedCheckpoint: it is not what was saved.
          UserError: the saved modules have other leaves, or of other shapes.
        """
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        args = ocp.args.PyTreeRestore(like, restore_args=restore_args, partial_restore=True)
        meta = self._read_meta(step)
        if differing := _differing(like, meta["shapes"], partial=True):
            raise UserError(
                f"checkpoint {self.folder / str(step)} holds another backbone than config.json of the run describes: "
                f"they differ in {len(differing)} arrays, as {differing[0]}; restore that file"
            )
        return self._restore(step, args, meta)

    def restore(self, step: int, like: Any, sharding: NamedSharding) -> tuple[TrainState, dict]:
        """The state after `step` steps, on the devices of `sharding`, and its `meta`.

        Args:
          like: a state, or its `jax.eval_shape`, with the shapes of the one that was saved.

        Raises:
          DamagedCheckpoint: it is not what was saved.
          UserError: it was saved with other leaves, or of other shapes.
        """
        meta, damage = None, None
        try:
            meta = self._read_meta(step)
        except DamagedCheckpoint as error:
            damage = error
        # All or none read the state: Orbax lets each wait there for the others.
        if not np.all(multihost_utils.process_allgather(np.array([meta is not None]))):
            raise damage or self._damaged(step, "its description is damaged on another host")
        if differing := _differing(like, meta["shapes"]):
            raise UserError(
                f"checkpoint {self.folder / str(step)} is of another network or optimizer than the config describes: "
                f"they differ in {len(differing)} arrays, as {differing[0]}; go on with the config and the versions "
                "that saved it, or begin anew in another --workdir"
            )
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like)
        return self._restore(step, ocp.args.StandardRestore(like), meta), meta

    def set_aside(self, step: int) -> Path:
        """Renames a checkpoint so that it counts no more, and nothing is lost; returns its new place."""
        place = self.folder / f"damaged-{step}"
        number = 1
        while place.exists():
            number += 1
            place = self.folder / f"damaged-{step}-{number}"
        if jax.process_index() == 0:
            (self.folder / str(step)).rename(place)
        multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager.reload()
        return place

    def _restore(self, step: int, args: Any, meta: dict) -> Any:
        """The state, or the part of it that `args` names, with the digests of `meta`."""
        state = self._read(step, state=args).state
        for name, found in digests(state).items():
            if meta["digests"].get(name) != found:
                raise self._damaged(step, f"{name} is not what was saved")
        return state

    def _read_meta(self, step: int) -> dict:
        meta = self._read(step, meta=ocp.args.JsonRestore()).meta
        if not isinstance(meta, dict):
            raise self._damaged(step, "its description is not the one that was saved")
        if meta.keys() & {"digests", "sha256"} and meta.get("sha256") != _sha256(meta):
            raise self._damaged(step, "its description is not the one that was saved")
        if missing := {"digests", "shapes"} - meta.keys():
            raise UserError(
                f"checkpoint {self.folder / str(step)} carries no {min(missing)}: an older version saved it; use that "
                "one, or begin anew in another --workdir"
            )
        return meta

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise  # of the device, not of the file
        except OSError as error:
            if not isinstance(error, FileNotFoundError):  # a disk that does not answer is no damage yet
                raise TransientError(f"checkpoint {self.folder / str(step)} cannot be read: {error}") from error
            raise self._damaged(step, f"{error.filename or error} is missing") from error
        except Exception as error:  # damaged bytes raise anything inside the readers of Orbax and TensorStore
            lines = str(error).strip().splitlines() or [repr(error)]
            raise self._damaged(step, lines[0]) from error

    def _damaged(self, step: int, reason: str) -> DamagedCheckpoint:
        others = [other for other in self.steps() if other != step]
        return DamagedCheckpoint(
            f"checkpoint {self.folder / str(step)} is damaged ({reason}); others are of steps {others or 'none'}"
        )


def _shapes(tree: Any) -> dict[str, list[int]]:
    """By the names that `digests` gives."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.shape) for path, leaf in leaves}


def _differing(like: Any, saved: dict[str, list[int]], *, partial: bool = False) -> list[str]:
    """Names of the leaves that only one of them has, or in another shape; `partial`: in modules that `like` has."""
    wanted = _shapes(like)
    if partial:
        modules = {tuple(name.split("/")[:3]) for name in wanted}
        saved = {name: shape for name, shape in saved.items() if tuple(name.split("/")[:3]) in modules}
    return sorted(name for name in wanted.keys() | saved.keys() if wanted.get(name) != saved.get(name))


def _sha256(meta: dict) -> str:
    """Of all fields but itself."""
    fields = {name: value for name, value in meta.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
