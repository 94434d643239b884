"""Saving and restoring the state of a run: the only home of Orbax.

Every checkpoint carries a description of its state, and every restore verifies it: Orbax itself hands out a flipped bit
silently.
"""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from univip_jax.common import buckets
from univip_jax.common.errors import DamagedCheckpoint, TransientError, UserError
from univip_jax.common.files import at
from univip_jax.run.integrity import describe, description_sha256, differing, digests
from univip_jax.run.staged import Retention, Staged, clean, committed, limited, move

FOLDER = "checkpoints"
_REASON = 160  # characters of an error of the readers


class Checkpoints:
    """The checkpoints of a run's folder. Saves are asynchronous; close it, or leave its `with`, to wait for them."""

    def __init__(self, run: Path, keep: Retention | None = None):
        """None opens the folder for reading.

        Raises UserError: there is no such folder to read, or several processes would write to S3.
        """
        self.folder = at(run).resolve() / FOLDER
        if keep is None and not self.folder.is_dir():
            raise UserError(f"{run} has no {FOLDER}: it is no run, or ended before its first checkpoint")
        self._staged = None
        if str(self.folder).startswith("s3://"):  # Orbax has no client of S3
            if keep and jax.process_count() > 1:
                raise UserError(f"{run}: several processes save to gs:// or to a shared disk: choose another --workdir")
            self._staged = Staged(self.folder, keep)
        if keep and buckets.is_bucket(self.folder) and jax.process_index() == 0:
            clean(self.folder)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=Retention(1) if keep and self._staged else keep,
            read_only=keep is None,
            create=keep is not None,
        )
        place = self._staged.local if self._staged else self.folder
        self._manager = self._ask(lambda: ocp.CheckpointManager(str(place), options=options))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: Any) -> None:
        if failure and buckets.is_bucket(self.folder):
            limited(self._close)
        else:
            self._close()

    def _close(self) -> None:
        try:
            if self._staged:
                self._staged.close()
        finally:
            self._ask(self._manager.close)

    def steps(self) -> list[int]:
        """The steps that can be restored, oldest first."""
        return committed(self.folder) if self._staged else sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, meta: dict) -> None:
        """Begins to save the state after `step` steps; `meta` is JSON, which restoring returns.

        Raises:
          UserError: this save, or the one before, could not be written; older checkpoints are untouched.
          DivergedReplicas: the devices do not hold the same state; nothing is saved.
        """
        meta = describe(state, meta)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._writing(lambda: self._save(step, args))

    def _save(self, step: int, args: Any) -> None:
        if self._staged:
            self._staged.wait()
        self._manager.save(step, args=args, force=True)
        if self._staged:
            self._staged.put(step, self._manager.wait_until_finished)

    def check(self) -> None:
        """Raises UserError where the newest save has failed by now."""
        self._writing(self._staged.check if self._staged else self._manager.check_for_errors)

    def wait(self) -> None:
        """Returns when the newest save is on disk, or in the bucket; raises UserError where it failed."""
        self._writing(self._staged.wait if self._staged else self._manager.wait_until_finished)

    def restore_newest(self, like: Any, sharding: NamedSharding) -> tuple[int, Any, dict]:
        """(step, state, meta) of the newest checkpoint that is whole on every host; damaged ones are quarantined.

        Raises:
          UserError: none is whole, or the newest has other leaves than `like`, or of other shapes.
        """
        places = []
        for step in reversed(self.steps()):
            restored, damage = None, "damaged on another host"
            try:
                restored = self.restore(step, like, sharding)
            except DamagedCheckpoint as error:
                damage = str(error)
            if _on_all_hosts(restored is not None):
                return step, *restored
            places.append(self.quarantine(step))
            print(f"{damage}: quarantined as {places[-1].name}", file=sys.stderr)
        raise UserError(
            f"no checkpoint of {self.folder.parent} is whole: {', '.join(place.name for place in places)} were "
            "quarantined there; restore them from a backup, or begin anew in another --workdir"
        )

    def restore(self, step: int, like: Any, sharding: NamedSharding) -> tuple[Any, dict]:
        """The state after `step` steps, on the devices of `sharding`, and its `meta`.

        Args:
          like: a state, or its `jax.eval_shape`, with the shapes of the one that was saved.

        Raises:
          DamagedCheckpoint: it is not what was saved.
          UserError: it was saved with other leaves, or of other shapes.
        """
        meta, damage = None, None
        try:
            meta = self.read_meta(step)
        except DamagedCheckpoint as error:
            damage = error
        # All or none read the state: Orbax lets each wait there for the others.
        if not _on_all_hosts(meta is not None):
            raise damage or self._damaged(step, "its description is damaged on another host")
        if names := differing(like, meta["shapes"]):
            raise UserError(
                f"checkpoint {self.folder / str(step)} is of another network or optimizer than the config describes: "
                f"they differ in {len(names)} arrays, as {names[0]}; resume with the config and the versions "
                "that saved it, or begin anew in another --workdir"
            )
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like)
        return self._restore(step, ocp.args.StandardRestore(like), meta), meta

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
        meta = self.read_meta(step)
        if names := differing(like, meta["shapes"], partial=True):
            raise UserError(
                f"checkpoint {self.folder / str(step)} holds another backbone than config.json of the run describes: "
                f"they differ in {len(names)} arrays, as {names[0]}; restore that file"
            )
        return self._restore(step, args, meta)

    def read_meta(self, step: int) -> dict:
        """What `save` was given as `meta`, with the description of the state.

        Raises DamagedCheckpoint where it is not what was saved, UserError where an older version saved it.
        """
        meta = self._read(step, meta=ocp.args.JsonRestore()).meta
        described = isinstance(meta, dict)
        if not described or (meta.keys() & {"digests", "sha256"} and meta.get("sha256") != description_sha256(meta)):
            raise self._damaged(step, "its description is not the one that was saved")
        if missing := {"digests", "shapes"} - meta.keys():
            raise UserError(
                f"checkpoint {self.folder / str(step)} carries no {min(missing)}: an older version saved it; use that "
                "version, or begin anew in another --workdir"
            )
        return meta

    def quarantine(self, step: int) -> Path:
        """Renames a checkpoint so that it counts no more, and nothing is lost; returns its new place."""
        place, number = self.folder / f"damaged-{step}", 1
        while place.exists():
            number += 1
            place = self.folder / f"damaged-{step}-{number}"
        if jax.process_index() == 0:
            move(self.folder / str(step), place)
        multihost_utils.sync_global_devices(f"quarantine {step}")
        if self._staged:
            self._staged.forget(step)
        self._ask(self._manager.reload)
        return place

    def _ask(self, work: Callable[[], Any]) -> Any:
        """What `work` returns; a bucket that fails, or is closed to us, is no damage."""
        return buckets.of_store(self.folder, work) if buckets.is_bucket(self.folder) else work()

    def _writing(self, work: Callable[[], None]) -> None:
        try:
            self._ask(work)
        except (OSError, ValueError) as error:
            raise UserError(
                f"a checkpoint cannot be written to {self.folder}: {' '.join(str(error).split())}; free space or "
                "restore the disk, then run the same command again: it resumes from the newest that was"
            ) from error

    def _restore(self, step: int, args: Any, meta: dict) -> Any:
        """The state, or the part of it that `args` names, with the digests of `meta`."""
        state = self._read(step, state=args).state
        for name, found in digests(state).items():
            if meta["digests"].get(name) != found:
                raise self._damaged(step, f"{name} is not what was saved")
        return state

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._ask(lambda: self._read_items(step, items))
        except (UserError, MemoryError, jax.errors.JaxRuntimeError):
            raise  # of the bucket or the device, not of the file
        except OSError as error:
            if not isinstance(error, FileNotFoundError):  # a disk that does not answer is no damage yet
                raise TransientError(f"checkpoint {self.folder / str(step)} cannot be read: {error}") from error
            raise self._damaged(step, f"{error.filename or error} is missing") from error
        except Exception as error:  # damaged bytes raise anything inside the readers of Orbax and TensorStore
            # TensorStore's message goes on with its whole specification.
            reason = textwrap.shorten(str(error) or repr(error), _REASON, placeholder=" ...")
            raise self._damaged(step, reason) from error

    def _read_items(self, step: int, items: dict[str, Any]) -> Any:
        if self._staged:
            self._staged.fetch(step)
            self._manager.reload()
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def _damaged(self, step: int, reason: str) -> DamagedCheckpoint:
        others = [other for other in self.steps() if other != step]
        return DamagedCheckpoint(
            f"checkpoint {self.folder / str(step)} is damaged ({reason}); others are of steps {others or 'none'}"
        )


def _on_all_hosts(value: bool) -> bool:
    return bool(np.all(multihost_utils.process_allgather(np.array([value]))))
